"""What an image file is: by its content, and, where nobody has looked yet, by its name."""

from __future__ import annotations

import re
from typing import Literal

Format = Literal[
    "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF", "HEIC", "JPEG 2000", "PNM"
]  # fmt: skip
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
    ".heic", ".heif", ".hif", ".jp2", ".pgm", ".ppm", ".pbm", ".pnm",
)  # fmt: skip
"""Names under which pictures are looked for in folders, in small letters."""

FILM_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".wmv", ".flv", ".3gp", ".ogv", ".mjpeg", ".mjpg",
)  # fmt: skip
"""Names of films, in small letters."""

READABLE = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG 2000 or PGM/PPM"
HEAD_BYTES = 256
"""So much of a file's start says what it is."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
JP2_CODESTREAM = b"\xff\x4f\xff\x51"
_PNM = re.compile(rb"P[1-6][ \t\r\n#]")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# mif1 and msf1 are what any still picture in this container may call itself.
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2",
     b"msf1"}
)  # fmt: skip

_FILM_BRANDS = frozenset(
    {b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"qt  ",
     b"M4V ", b"3gp4", b"3gp5", b"3gp6", b"dash", b"MSNV"}
)  # fmt: skip


def image_format(data: bytes) -> Format | None:
    """The format by the file's first bytes (`HEAD_BYTES` are enough), or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data.startswith((JP2_SIGNATURE, JP2_CODESTREAM)):
        return "JPEG 2000"
    if _PNM.match(data):
        return "PNM"
    return _in_iso_container(data)


def film_format(data: bytes) -> bool:
    """Whether a file's first bytes are those of a common container of films."""
    if data[4:8] == b"ftyp":
        return _in_iso_container(data) is None
    return data.startswith(b"\x1a\x45\xdf\xa3") or (data[:4] == b"RIFF" and data[8:12] == b"AVI ")


def _in_iso_container(data: bytes) -> Format | None:
    """AVIF and HEIC share MP4's container; the brands in its first box distinguish them.

    A film reader takes a HEIC, too, and delivers the first of its tiles.
    """
    if data[4:8] != b"ftyp":
        return None
    length = int.from_bytes(data[:4], "big")
    major = data[8:12]
    brands = {major} | {data[at : at + 4] for at in range(16, min(length, len(data)) - 3, 4)}
    # A film may name a still's brand among those that it is compatible with.
    if major in _FILM_BRANDS:
        return None
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None
