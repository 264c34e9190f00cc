"""Width and height as an image's header promises them, without decoding anything.

Each reader follows the decoder that comes after it: where two fields could decide, the
larger counts, so that no decoder reserves more than was looked at.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from foldcam.runtime.images import iso_boxes
from foldcam.runtime.images.format import JP2_CODESTREAM, JP2_SIGNATURE, Format

Size = tuple[int, int]
"""`(width, height)` in pixels, as stored: before any rotation."""

_STANDS_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_PNM_NUMBER = re.compile(rb"(?:[ \t\r\n]|#[^\r\n]*[\r\n])+([0-9]{1,9})(?![0-9])")
_MOST_COMPONENTS = 4


def image_size(data: bytes, kind: Format) -> Size | None:
    """The size that a header promises, None where it holds none that can be read."""
    try:
        size = _READERS[kind](data)
    except (struct.error, IndexError, ValueError):
        return None
    return size if size is not None and min(size) > 0 else None


def _jpeg(data: bytes) -> Size | None:
    position = _jpeg_frame(data)
    if position is None:
        return None
    height, width = struct.unpack_from(">HH", data, position + 5)
    return width, height


def jpeg_components(data: bytes) -> int | None:
    """Components of a JPEG: 1 is grey, 3 colours, 4 those of print; None without a header."""
    position = _jpeg_frame(data)
    return data[position + 9] if position is not None and position + 9 < len(data) else None


def jpeg_is_progressive(data: bytes) -> bool | None:
    """Whether a JPEG comes in several scans of growing detail; None without a header."""
    position = _jpeg_frame(data)
    return None if position is None else data[position + 1] in _PROGRESSIVE


def _jpeg_frame(data: bytes) -> int | None:
    """Where the marker of a JPEG's own frame header stands; None if it has none."""
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in _FRAMES:
            return position
        if marker in (0x00, 0xFF):
            position += 1
        elif marker in _STANDS_ALONE:
            position += 2
        elif marker in (0xD9, 0xDA):
            return None
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _png(data: bytes) -> Size | None:
    width, height = struct.unpack_from(">II", data, 16)
    return (width, height) if data[12:16] == b"IHDR" else None


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(data: bytes) -> Size | None:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _tiff(data: bytes) -> Size | None:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    at += 8 if big else 2
    entry = order + ("HHQ8s" if big else "HHI4s")
    values: dict[int, int] = {}
    for place in range(min(count, 4096)):
        tag, kind, _, raw = struct.unpack_from(entry, data, at + place * struct.calcsize(entry))
        code = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is not None and not (code == "Q" and not big):
            values[tag] = max(values.get(tag, 0), struct.unpack_from(order + code, raw)[0])
    if 256 not in values or 257 not in values:
        return None
    # A tile is reserved whole, however small the image is.
    return max(values[256], values.get(322, 0)), max(values[257], values.get(323, 0))


def _gif(data: bytes) -> Size | None:
    width, height = struct.unpack_from("<HH", data, 6)
    frame = gif_frame(data)
    if frame is None:
        return None
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, frame + 1)
    return max(width, left + frame_width), max(height, top + frame_height)


def gif_frame(data: bytes) -> int | None:
    """Where the descriptor of a GIF's first frame stands; None if the file ends before it."""
    at = 13 + _colours(data[10])
    while at < len(data):
        if data[at] == 0x2C:
            return at
        if data[at] != 0x21:
            return None
        end = after_sub_blocks(data, at + 2)
        if end is None:
            return None
        at = end
    return None


def gif_frame_end(data: bytes) -> int | None:
    """Where a GIF's first frame ends; None if the file ends before it."""
    at = gif_frame(data)
    if at is None or at + 10 >= len(data):
        return None
    return after_sub_blocks(data, at + 11 + _colours(data[at + 9]))


def after_sub_blocks(data: bytes, at: int) -> int | None:
    """What follows a GIF's chain of sub-blocks; None if the file ends before it."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        if length == 0:
            return at
    return None


def _colours(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _jpeg_2000(data: bytes) -> Size | None:
    start = jpeg_2000_codestream(data)
    if start is None:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    components = struct.unpack_from(">H", data, start + 40)[0]
    # Each is reserved as 32 bits, and a header can promise 16,384 of them.
    if not 1 <= components <= _MOST_COMPONENTS:
        return None
    return right - left, bottom - top


def jpeg_2000_codestream(data: bytes) -> int | None:
    """Where the codestream of a JPEG 2000 file begins; None if there is none."""
    if data.startswith(JP2_CODESTREAM):
        return 0
    if not data.startswith(JP2_SIGNATURE):
        return None
    for box in iso_boxes.boxes(data, 0, len(data)):
        if box.kind == b"jp2c" and data[box.start : box.start + 4] == JP2_CODESTREAM:
            return box.start
    return None


def _iso(data: bytes) -> Size | None:
    return max(iso_boxes.sizes(data), key=lambda size: size[0] * size[1], default=None)


def _pnm(data: bytes) -> Size | None:
    width = _PNM_NUMBER.match(data, 2)
    height = width and _PNM_NUMBER.match(data, width.end())
    if not width or not height:
        return None
    return int(width.group(1)), int(height.group(1))


_READERS: dict[Format, Callable[[bytes], Size | None]] = {
    "JPEG": _jpeg, "PNG": _png, "WebP": _webp, "BMP": _bmp, "TIFF": _tiff, "GIF": _gif,
    "AVIF": _iso, "HEIC": _iso, "JPEG 2000": _jpeg_2000, "PNM": _pnm,
}  # fmt: skip
