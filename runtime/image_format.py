"""What an image file is, and whether it is all there.

Decoders fill what a cut-off file lacks with grey and call it a success; a heatmap
over grey is a lie, so completeness is checked on the file's own structure first.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Literal

from runtime.errors import FoldcamError

Format = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF"]
MAX_IMAGE_BYTES = 1 << 30

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
# Markers without a length: TEM, RST0..7, SOI.
_JPEG_BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})


def image_format(data: bytes) -> Format | None:
    """The format by the file's first bytes, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    return None


def check_complete(data: bytes, kind: Format, path: Path) -> None:
    """Refuse a file that was cut off, or whose own checksums disagree.

    BMP and TIFF need no check: their decoders refuse a cut-off file.

    Raises:
        FoldcamError: truncated or damaged.
    """
    complete = True
    if kind == "JPEG":
        complete = _jpeg_complete(data)
    elif kind == "PNG":
        complete = _png_complete(data, path)
    elif kind == "WebP":
        complete = len(data) >= 12 and len(data) >= 8 + struct.unpack_from("<I", data, 4)[0]
    if not complete:
        raise FoldcamError(f"{path} is truncated: the {kind} file ends before the image does.")


def _jpeg_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the image's own first scan.

    The header is walked segment by segment, because the thumbnail in the EXIF
    segment is a JPEG with an end-of-image marker of its own.
    """
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return True  # damaged rather than cut off: the decoder's business
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_BARE:
            position += 1 if marker == 0xFF else 2
        elif marker == _JPEG_SCAN:
            # Within a scan 0xFF is always followed by 0x00 or a restart marker.
            return data.find(_JPEG_END, position) >= 0
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _png_complete(data: bytes, path: Path) -> bool:
    position = len(_PNG_SIGNATURE)
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
