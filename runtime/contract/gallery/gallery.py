"""A model's gallery, opened: the picture and the map of any row of its bank."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.gallery.layout import MAX_THUMBNAIL_SIDE, read_layout
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.contract.tensor_file import TensorFile
from foldcam.runtime.images.format import image_format
from foldcam.runtime.images.integrity import check_complete
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.size import image_size
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

SUFFIX = ".gallery"
_REMEDY = ": make it with foldcam gallery MODEL --images DATA"


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
