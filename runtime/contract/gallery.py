"""A model's gallery, opened: the picture and the map of any row of its bank."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from foldcam.runtime.contract.schema import CONTRIBUTION, HEATMAP, Contract
from foldcam.runtime.contract.tensor_file import TensorFile, header_bytes
from foldcam.runtime.images.format import image_format
from foldcam.runtime.images.integrity import check_complete
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.size import image_size
from foldcam.runtime.images.small import encode_jpeg, fitted
from foldcam.runtime.system.documents import Versioned
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

SUFFIX = ".gallery"
_REMEDY = ": make it with foldcam gallery MODEL --images DATA"
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
SIDE = 160
"""Pixels of a thumbnail's longer side, at most."""
_QUALITY = 82
_HEADER_BYTES = 4096


class Gallery:
    """The pictures of a bank's rows, each read from the file when it is asked for.

    Methods may be called by any thread.

    Args:
        path: the file.
        contract: of the model whose gallery it has to be.

    Raises:
        FoldcamError: it is missing, damaged, no gallery, or that of another bank.
    """

    def __init__(self, path: Path | str, contract: Contract) -> None:
        self.path = Path(path)
        self.contract = contract
        self._handle = -1
        refuse_special(self.path)
        try:
            self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._file = TensorFile(self._handle, self.path, "gallery", _REMEDY)
            self._layout = read_layout(self._file, self.path)
        except FileNotFoundError:
            raise FoldcamError(f"{self.path} does not exist{_REMEDY}.") from None
        except (OSError, ValueError) as error:
            raise FoldcamError(f"{self.path} cannot be read as a gallery ({error}).") from error
        bank, rows = contract.bank, len(self._layout.name_ends)
        if self._layout.bank_sha256 != bank.sha256 or rows != bank.rows:
            raise FoldcamError(
                f"{self.path} is the gallery of another bank than the model's: make it again with "
                "foldcam gallery MODEL --images DATA, or remove it."
            )

    def picture(self, row: int) -> Image | None:
        """The picture of a bank row, as the network was shown it before it was resized.

        Args:
            row: from 0 to N - 1, such as `Result.neighbors[0]`.

        Returns:
            `uint8 [H, W, 3]` RGB, its longer side at most 160 pixels; None where the gallery has
            none, or it is damaged.

        Raises:
            IndexError: the bank has no such row.
            FoldcamError: the file cannot be read any more.
        """
        layout = self._layout
        data = self._piece(layout.thumbnails, layout.thumbnail_ends, row)
        return _decoded(data, self.path) if image_format(data) == "JPEG" else None

    def map(self, row: int) -> npt.NDArray[np.float32]:
        """What in a row's own picture speaks for it, and against it.

        Args:
            row: from 0 to N - 1.

        Returns:
            `float32 [h, w]`, signed, over the network's input: the output `contribution` of the
            model on this picture, or its heatmap where it has no such output.

        Raises:
            IndexError: the bank has no such row.
            FoldcamError: the file cannot be read any more.
        """
        height, width = self._layout.map_size
        count = 2 * height * width
        data = self._file.bytes_at(self._layout.maps + self._known(row) * count, count)
        cells = np.frombuffer(data, "<f2").reshape(height, width).astype(np.float32)
        return np.nan_to_num(cells, nan=0.0, posinf=0.0, neginf=0.0)

    def name(self, row: int) -> str:
        """What a row's picture is called, such as `owls/3.jpg`; empty where it is not known.

        Raises:
            IndexError: the bank has no such row.
            FoldcamError: the file cannot be read any more.
        """
        data = self._piece(self._layout.names, self._layout.name_ends, row)
        return data.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<Gallery of {self.contract.bank.rows} rows, {self.path}>"

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _known(self, row: int) -> int:
        if not 0 <= row < self.contract.bank.rows:
            raise IndexError(f"bank row {row} of {self.contract.bank.rows}")
        return row

    def _piece(self, begin: int, ends: npt.NDArray[np.int64], row: int) -> bytes:
        first = int(ends[row - 1]) if self._known(row) else 0
        return self._file.bytes_at(begin + first, int(ends[row]) - first)


def gallery_beside(model: Path, contract: Contract) -> tuple[Path, str | None] | None:
    """The gallery beside a model, and why it is not the model's; None where there is none."""
    path = gallery_path(model)
    if not path.exists():
        return None
    try:
        Gallery(path, contract).close()
    except FoldcamError as error:
        return path, str(error)
    return path, None


def stale_gallery(model: Path, contract: Contract) -> list[str]:
    """A sentence about a gallery beside a model that is of other rows; else nothing."""
    beside = gallery_beside(model, contract)
    if beside is None or beside[1] is None:
        return []
    return [f"{beside[1]} Until then a run with --beside, --report or --serve stops at it."]


def _decoded(data: bytes, path: Path) -> Image | None:
    """A thumbnail, of which nothing is decoded before its header was looked at."""
    size = image_size(data, "JPEG")
    if size is None or max(size) > MAX_THUMBNAIL_SIDE:
        return None
    try:
        check_complete(data, "JPEG", path)
        decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    except (FoldcamError, cv2.error):
        return None


def gallery_path(model: Path) -> Path:
    """Where a model's gallery lies: `birds.gallery` beside `birds.onnx` and `birds.engine`."""
    return model.with_suffix(SUFFIX)


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
    """Check the header and the ends of a gallery's pieces."""
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


class GalleryWriter:
    """Writes the rows of a bank in order; `finish` completes the file."""

    def __init__(self, file: BinaryIO, contract: Contract) -> None:
        self._file, self._contract = file, contract
        # As fine as the feature map: a heatmap that was enlarged says nothing more.
        height, width = (
            min(one, other, MAX_MAP_SIDE)
            for one, other in zip(contract.heatmap_size, contract.feature_map[1:], strict=True)
        )
        self._map_size = height, width
        self._maps: list[npt.NDArray[np.float16]] = []
        self._ends: list[int] = []
        self._names: list[bytes] = []
        self._size = 0
        file.write(bytes(_HEADER_BYTES))

    def add(self, picture: Image | None, signed: npt.NDArray[np.float32] | None, name: str) -> None:
        """The next row.

        Args:
            picture: `uint8 [H, W, 3]` RGB that the network was shown; None where it is not known.
            signed: `float32 [h', w']`, what speaks for the answer and against it.
        """
        cells = np.zeros(self._map_size, np.float16)
        if picture is not None:
            self._size += self._file.write(_thumbnail(picture))
            if signed is not None:
                cells = _averaged(signed, self._map_size)
        self._ends.append(self._size)
        self._maps.append(cells)
        self._names.append(name.encode("utf-8", "replace")[:MAX_NAME_BYTES])

    def finish(self) -> None:
        """Write what follows the thumbnails, and the header."""
        rows = self._contract.bank.rows
        if len(self._maps) != rows:
            raise FoldcamError(f"A gallery of {len(self._maps)} rows for a bank of {rows}.")
        names = b"".join(self._names)
        pieces = {
            THUMBNAILS: ([self._size], b""),
            THUMBNAIL_ENDS: ([rows], np.asarray(self._ends, "<i8").tobytes()),
            NAME_ENDS: ([rows], np.cumsum([*map(len, self._names)]).astype("<i8").tobytes()),
            MAPS: ([rows, *self._map_size], np.stack(self._maps).astype("<f2").tobytes()),
            NAMES: ([len(names)], names),
        }
        arrays, at = {}, 0
        for name, (shape, data) in pieces.items():
            first, at = at, at + (self._size if name == THUMBNAILS else len(data))
            arrays[name] = (ARRAYS[name][0], shape, first, at)
            self._file.write(data)
        signed = CONTRIBUTION in self._contract.optional_outputs
        about = {
            "schema_version": SCHEMA_VERSION,
            "bank_sha256": self._contract.bank.sha256,
            "map": CONTRIBUTION if signed else HEATMAP,
        }
        self._file.seek(0)
        self._file.write(header_bytes(arrays, "gallery", json.dumps(about), _HEADER_BYTES))


def _thumbnail(picture: Image) -> bytes:
    data = encode_jpeg(fitted(picture, SIDE, SIDE), _QUALITY)
    if len(data) > MAX_THUMBNAIL_BYTES:
        raise FoldcamError(f"A thumbnail has {len(data)} bytes, above {MAX_THUMBNAIL_BYTES}.")
    return data


def _averaged(signed: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float16]:
    if signed.shape != size:
        signed = np.asarray(
            cv2.resize(signed, (size[1], size[0]), interpolation=cv2.INTER_AREA), np.float32
        )
    limit = float(np.finfo(np.float16).max)
    return np.clip(np.nan_to_num(signed), -limit, limit).astype(np.float16)
