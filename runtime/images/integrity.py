"""Whether an image file is all there.

Decoders fill what a cut-off file lacks with grey and call it a success; a heatmap
over grey is a lie, so completeness is checked on the file's own structure first.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np

from foldcam.runtime.images import iso_boxes
from foldcam.runtime.images.format import PNG_SIGNATURE, Format
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.size import (
    gif_frame_end,
    image_size,
    jpeg_2000_codestream,
    jpeg_components,
    jpeg_is_progressive,
)
from foldcam.runtime.system.errors import FoldcamError

_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
# Markers without a length: TEM, RST0..7, SOI.
_JPEG_BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
# What ends a scan: within one, 0xFF is followed by 0x00 or a restart marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RUN = 8
_JPEG_PICTURES = b"MPF\0"
# No 0xFF among them, which would begin a marker.
_SPARE = bytes(range(1, 255)) * 16


def check_complete(data: bytes, kind: Format, path: Path) -> None:
    """Refuse a file that was cut off, or whose own checksums disagree.

    BMP, TIFF and PNM need no check: their decoders refuse a cut-off file.
    """
    try:
        complete = _complete(data, kind, path)
    except (IndexError, ValueError, struct.error):
        complete = False  # cut off within a header
    if not complete:
        raise FoldcamError(f"{path} is truncated: the {kind} file ends before the image does.")


def _complete(data: bytes, kind: Format, path: Path) -> bool:
    if kind == "JPEG":
        return _jpeg_complete(data)
    if kind == "PNG":
        return _png_complete(data, path)
    if kind == "WebP":
        return len(data) >= 12 and len(data) >= 8 + int.from_bytes(data[4:8], "little")
    if kind == "GIF":
        return gif_frame_end(data) is not None
    if kind in ("AVIF", "HEIC"):
        return iso_boxes.whole(data)
    return kind != "JPEG 2000" or _jpeg_2000_complete(data)


def _jpeg_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the image's own first scan."""
    scan = _jpeg_scan(data)
    if scan is None:
        return False
    if scan < 0:
        return True
    # Within a scan 0xFF is always followed by 0x00 or a restart marker.
    return data.find(_JPEG_END, scan) >= 0 and _all_scans(data, scan)


def _jpeg_scan(data: bytes) -> int | None:
    """Where a JPEG's own first scan begins; None if it ends before, -1 if it is damaged.

    The header is walked segment by segment, because the thumbnail in the EXIF
    segment is a JPEG with an end-of-image marker of its own.
    """
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return -1  # damaged rather than cut off: the decoder's business
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_BARE:
            position += 1 if marker == 0xFF else 2
        elif marker == _JPEG_SCAN:
            return position
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _all_scans(data: bytes, scan: int) -> bool:
    """Whether a progressive JPEG has its scans for every coefficient down to the last bit.

    One that was cut off and closed again has lost the last ones, and is decoded as a blur.
    """
    if jpeg_is_progressive(data) is not True:
        return True
    missing = {(place, band) for place in range(jpeg_components(data) or 0) for band in range(64)}
    places: dict[int, int] = {}
    at: int | None = scan
    while at is not None and at + 6 < len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xD9:
            break
        if marker == _JPEG_SCAN:
            count = data[at + 4]
            first, last, bits = data[at + 2 + length - 3 : at + 2 + length]
            for number in range(count):
                place = places.setdefault(data[at + 5 + 2 * number], len(places))
                if bits & 0x0F == 0:
                    missing -= {(place, band) for band in range(first, last + 1)}
        end = _MARKER.search(data, at + 2 + length)
        at = end.start() if end else None
    return not missing


def may_be_filled(image: Image, data: bytes) -> bool:
    """Whether a decoded JPEG ends as decoders let one end whose data ran out.

    They put the middle of every component there: grey, unless the file has the four of print.
    A run of such pixels from a corner is rare in photographs, and no proof.

    Args:
        image: `uint8 [H, W, 3]`, rotated or not.
    """
    grey = jpeg_components(data) != 4
    for line in (image[-1], image[0], image[:, -1], image[:, 0]):
        for run in (line[:_RUN], line[-_RUN:]):
            if bool((run == (128 if grey else run[0])).all()):
                return True
    return False


def with_spare_data(data: bytes) -> bytes | None:
    """The JPEG with meaningless data behind that of its first scan; None if it has no scan.

    A decoder that had all it needed ignores them, and gives the same picture again. One that
    had run out decodes them, and gives another.
    """
    position = _jpeg_scan(data)
    if position is None or position < 0:
        return None
    end = _MARKER.search(data, position + 2)
    if end is None:
        return None
    return data[: end.start()] + _SPARE + data[end.start() :]


def is_motion_jpeg(data: bytes) -> bool:
    """Whether another picture of the same size follows a JPEG: the recording of a camera.

    Photographs carry pictures behind their own, too (a preview, a map of brightness), of
    another size or announced in the first one's header.
    """
    scan = _jpeg_scan(data)
    if scan is None or scan < 0 or _JPEG_PICTURES in data[:scan]:
        return False
    end = data.find(_JPEG_END, scan)
    if end < 0 or data[end + 2 : end + 5] != b"\xff\xd8\xff":
        return False
    size = image_size(data, "JPEG")
    return size is not None and size == image_size(data[end + 2 :], "JPEG")


def _png_complete(data: bytes, path: Path) -> bool:
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            return False
        # Upper-case first letter: a chunk that the image cannot do without.
        if name[:1].isupper():
            stored = int.from_bytes(data[end - 4 : end], "big")
            if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != stored:
                raise FoldcamError(
                    f"{path} is damaged: the checksum of its PNG chunk "
                    f"{name.decode('ascii', 'replace')} is wrong."
                )
        if name == b"IEND":
            return True
        position = end
    return False


def _jpeg_2000_complete(data: bytes) -> bool:
    """Whether every tile that the header promises is there: a missing one is decoded as black."""
    start = jpeg_2000_codestream(data)
    if start is None:
        return False
    right, bottom, _, _, wide, high, left, top = np.frombuffer(data, ">u4", 8, start + 8).tolist()
    if not wide or not high:
        return False
    promised = -(-(right - left) // wide) * -(-(bottom - top) // high)
    found: set[int] = set()
    at = start + 2
    while at + 12 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xD9:
            break
        if marker != 0x90:  # no part of a tile: a segment of the header
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            continue
        found.add(int.from_bytes(data[at + 4 : at + 6], "big"))
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        if length == 0:
            break  # the last one, up to the end
        if length < 12:
            return False
        at += length
    return len(found) >= promised and at <= len(data)
