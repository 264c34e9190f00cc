"""Writing a gallery, row by row: only a picture and its map are in memory at a time."""

from __future__ import annotations

import json
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.gallery.layout import (
    ARRAYS,
    MAPS,
    MAX_MAP_SIDE,
    MAX_NAME_BYTES,
    MAX_THUMBNAIL_BYTES,
    NAME_ENDS,
    NAMES,
    SCHEMA_VERSION,
    THUMBNAIL_ENDS,
    THUMBNAILS,
)
from foldcam.runtime.contract.schema import CONTRIBUTION, HEATMAP, Contract
from foldcam.runtime.contract.tensor_file import header_bytes
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import encode_jpeg, fitted
from foldcam.runtime.system.errors import FoldcamError

SIDE = 160
"""Pixels of a thumbnail's longer side, at most."""
_QUALITY = 82
_HEADER_BYTES = 4096


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
        """Write what follows the thumbnails, and the header.

        Raises:
            FoldcamError: the rows are not as many as the bank has.
        """
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
