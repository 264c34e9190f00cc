"""The file of a gallery: safetensors, read with NumPy alone, and held against what it may be.

Its arrays, in the order of the bank's N rows: `thumbnails`, JPEG files one after another, and
`thumbnail_ends`, where each ends; `maps`, the signed map of each row's own picture; `names` and
`name_ends`, what each picture is called. A row whose picture is not known has an empty thumbnail.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.fields import Fields
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

FORMAT = "foldcam.gallery"
SCHEMA_VERSION = 1
THUMBNAILS, THUMBNAIL_ENDS = "thumbnails", "thumbnail_ends"
MAPS = "maps"
NAMES, NAME_ENDS = "names", "name_ends"

MAX_THUMBNAIL_BYTES = 1 << 18
MAX_THUMBNAIL_SIDE = 512
MAX_NAME_BYTES = 1 << 10
MAX_MAP_SIDE = 64
"""Cells of a side of a map: a finer one is averaged when it is written."""

_MAX_HEADER_BYTES = 1 << 16
_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
}
_EXPECTED = {
    THUMBNAILS: ("U8", 1), THUMBNAIL_ENDS: ("I64", 1), MAPS: ("F16", 3), NAMES: ("U8", 1),
    NAME_ENDS: ("I64", 1),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything lies in the file, checked.

    Attributes:
        bank_sha256: of the bank whose rows these are.
        map_size: `(h, w)`.
        thumbnails, maps, names: where each array begins, in bytes of the file.
        thumbnail_ends, name_ends: `int64 [N]`, ascending, in bytes of their array.
    """

    bank_sha256: str
    map_size: tuple[int, int]
    thumbnails: int
    maps: int
    names: int
    thumbnail_ends: npt.NDArray[np.int64]
    name_ends: npt.NDArray[np.int64]


def read_layout(handle: int, path: Path) -> Layout:
    """Read and check the header and the ends of a gallery's pieces.

    Args:
        handle: the file, open for reading.
        path: names it in messages.

    Raises:
        FoldcamError: it is no gallery, or damaged.
    """
    size = os.fstat(handle).st_size
    header, begin = _header(handle, size, path)
    metadata = header.section("__metadata__")
    if FORMAT not in metadata:
        raise FoldcamError(f"{path} is no gallery: make one with foldcam gallery.")
    try:
        about = Fields(parse_json(metadata.text(FORMAT)), f"{path}: its description")
    except ValueError as error:
        raise FoldcamError(f"{path} is damaged: its description is not JSON ({error}).") from None
    version = about.integer("schema_version")
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{path} has schema version {version} and this foldcam reads {SCHEMA_VERSION}: make "
            "the gallery again, or install the foldcam that wrote it."
        )
    arrays = {name: _array(header, name, begin, size) for name in _EXPECTED}
    rows, *map_size = arrays[MAPS][1]
    if max(map_size) > MAX_MAP_SIDE or min(map_size) < 1:
        header.fail(MAPS, f"have {map_size[0]} x {map_size[1]} cells, outside 1 to {MAX_MAP_SIDE}")
    ends = {}
    for name, whole, most in (
        (THUMBNAIL_ENDS, THUMBNAILS, MAX_THUMBNAIL_BYTES),
        (NAME_ENDS, NAMES, MAX_NAME_BYTES),
    ):
        first, shape = arrays[name]
        if shape != [rows]:
            header.fail(name, f"has the shape {shape}, and there are {rows} maps")
        found = np.frombuffer(pread(handle, 8 * rows, first, path), _DTYPES["I64"])
        lengths = np.diff(found, prepend=0)
        if rows and (lengths.min() < 0 or lengths.max() > most or found[-1] > arrays[whole][1][0]):
            header.fail(name, f"does not ascend by at most {most} bytes within {whole}")
        ends[name] = found.astype(np.int64)
    return Layout(
        about.text("bank_sha256"), (map_size[0], map_size[1]), arrays[THUMBNAILS][0],
        arrays[MAPS][0], arrays[NAMES][0], ends[THUMBNAIL_ENDS], ends[NAME_ENDS],
    )  # fmt: skip


def pread(handle: int, count: int, offset: int, path: Path) -> bytes:
    """So many bytes of the file, from any thread.

    Raises:
        FoldcamError: it has become shorter, or cannot be read.
    """
    try:
        data = os.pread(handle, count, offset)
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) < count:
        raise FoldcamError(f"{path} is cut short: make the gallery again with foldcam gallery.")
    return data


def _header(handle: int, size: int, path: Path) -> tuple[Fields, int]:
    """The header's fields, and where the arrays begin."""
    length = 0
    if size >= _LENGTH_BYTES:
        length = int.from_bytes(pread(handle, _LENGTH_BYTES, 0, path), "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
        raise FoldcamError(
            f"{path} is no gallery, or it is damaged: make one with foldcam gallery."
        )
    try:
        document = parse_json(pread(handle, length, _LENGTH_BYTES, path).decode("utf-8"))
    except ValueError:  # not UTF-8, too
        raise FoldcamError(
            f"{path} is no gallery, or it is damaged: make one with foldcam gallery."
        ) from None
    return Fields(document, f"{path}: the gallery's header"), _LENGTH_BYTES + length


def _array(header: Fields, name: str, begin: int, size: int) -> tuple[int, list[int]]:
    """Where an array begins in the file, and its shape; both fit the file."""
    dtype, dimensions = _EXPECTED[name]
    section = header.section(name)
    section.choice("dtype", [dtype])
    shape = section.integers("shape", dimensions, low=0)
    first, last = section.integers("data_offsets", 2, low=0, high=size - begin)
    if last - first != math.prod(shape) * _DTYPES[dtype].itemsize:
        header.fail(name, f"has {last - first} bytes, which is not what its shape {shape} needs")
    return begin + first, shape


def header_bytes(arrays: dict[str, tuple[list[int], int, int]], about: str, length: int) -> bytes:
    """The beginning of the file.

    Args:
        arrays: shape, first and last byte of each array, counted from the end of the header.
        about: the description, as JSON.
        length: in bytes; what the text does not need is filled with spaces.
    """
    document: dict[str, Any] = {"__metadata__": {FORMAT: about}}
    for name, (shape, first, last) in arrays.items():
        document[name] = {
            "dtype": _EXPECTED[name][0], "shape": shape, "data_offsets": [first, last],
        }  # fmt: skip
    text = json.dumps(document, separators=(",", ":")).encode().ljust(length - _LENGTH_BYTES)
    assert len(text) == length - _LENGTH_BYTES
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text
