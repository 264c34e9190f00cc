"""The file of a gallery: safetensors, read with NumPy alone, and held against what it may be.

Its arrays, in the order of the bank's N rows: `thumbnails`, JPEG files one after another, and
`thumbnail_ends`, where each ends; `maps`, the signed map of each row's own picture; `names` and
`name_ends`, what each picture is called. A row whose picture is not known has an empty thumbnail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from foldcam.runtime.contract.tensor_file import TensorFile
from foldcam.runtime.system.documents import Versioned
from foldcam.runtime.system.errors import FoldcamError

SCHEMA_VERSION = 1
THUMBNAILS, THUMBNAIL_ENDS = "thumbnails", "thumbnail_ends"
MAPS = "maps"
NAMES, NAME_ENDS = "names", "name_ends"

MAX_THUMBNAIL_BYTES = 1 << 18
MAX_THUMBNAIL_SIDE = 512
MAX_NAME_BYTES = 1 << 10
MAX_MAP_SIDE = 64
"""Cells of a side of a map: a finer one is averaged when it is written."""

ARRAYS = {
    THUMBNAILS: ("U8", 1), THUMBNAIL_ENDS: ("I64", 1), MAPS: ("F16", 3), NAMES: ("U8", 1),
    NAME_ENDS: ("I64", 1),
}  # fmt: skip
"""dtype and number of dimensions of each array."""


class _About(Struct, frozen=True):
    bank_sha256: str


@dataclass(frozen=True, eq=False)
class Layout:
    """Where everything lies in the file, checked.

    Attributes:
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


def read_layout(file: TensorFile, path: Path) -> Layout:
    """Check the header and the ends of a gallery's pieces.

    Raises:
        FoldcamError: it is damaged, or of another foldcam.
    """
    version = file.about(Versioned).schema_version
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{path} has schema version {version} and this foldcam reads {SCHEMA_VERSION}: make "
            "the gallery again, or install the foldcam that wrote it."
        )
    arrays = {
        name: file.placed(name, [kind], dimensions) for name, (kind, dimensions) in ARRAYS.items()
    }
    rows, *map_size = arrays[MAPS].shape
    if max(map_size) > MAX_MAP_SIDE or min(map_size) < 1:
        file.fail(MAPS, f"have {map_size[0]} x {map_size[1]} cells, outside 1 to {MAX_MAP_SIDE}")
    ends = {}
    for name, whole, most in (
        (THUMBNAIL_ENDS, THUMBNAILS, MAX_THUMBNAIL_BYTES),
        (NAME_ENDS, NAMES, MAX_NAME_BYTES),
    ):
        dtype, shape, offset = arrays[name]
        if shape != [rows]:
            file.fail(name, f"has the shape {shape}, and there are {rows} maps")
        found = np.frombuffer(file.bytes_at(offset, dtype.itemsize * rows), dtype)
        lengths = np.diff(found, prepend=0)
        held = arrays[whole].shape[0]
        if rows and (lengths.min() < 0 or lengths.max() > most or found[-1] > held):
            file.fail(name, f"does not ascend by at most {most} bytes within {whole}")
        ends[name] = found.astype(np.int64)
    return Layout(
        file.about(_About).bank_sha256, (map_size[0], map_size[1]), arrays[THUMBNAILS].offset,
        arrays[MAPS].offset, arrays[NAMES].offset, ends[THUMBNAIL_ENDS], ends[NAME_ENDS],
    )  # fmt: skip
