"""Photographs made ready for one forward pass, in memory that is allocated once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from foldcam.runtime.backends import Array, dtype_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.options import Box


@dataclass(frozen=True)
class Row:
    """What is known of one row before the network has seen it.

    Attributes:
        affine: maps pixels of the network's input to pixels of the *frame*, wherever in it
            the region lies.
        frame_wh: width and height of the frame in pixels.
        box: the region of the frame; None for all of it.
        preprocess_ms: milliseconds that it took.
    """

    affine: Affine
    frame_wh: tuple[int, int]
    box: Box | None
    preprocess_ms: float


class Batch:
    """Rows of a model's input, filled one by one and used again after `clear`.

    Args:
        contract: of the model.
        capacity: rows at most.
    """

    def __init__(self, contract: Contract, capacity: int) -> None:
        self._recipe = contract.preprocessing
        self._bytes = contract.input_type == "uint8"
        height, width = self._recipe.height, self._recipe.width
        shape = (height, width, 3) if self._bytes else (3, height, width)
        self._buffer: Array = np.empty((capacity, *shape), dtype_of(contract))
        self.rows: list[Row] = []

    @property
    def full(self) -> bool:
        """Whether no further row fits."""
        return len(self.rows) == len(self._buffer)

    @property
    def images(self) -> Array:
        """The rows so far, as the contract's `image`."""
        return self._buffer[: len(self.rows)]

    def add(self, image: Image, box: Box | None = None) -> None:
        """Preprocess one photograph into the next row.

        Args:
            image: `uint8 [H, W, 3]` RGB, the whole frame.
            box: `(x, y, width, height)` within it that the network is shown; None for all.

        Raises:
            FoldcamError: it is not such an array.
            IndexError: the batch is full.
        """
        row = len(self.rows)
        check_image(image, row)
        start = time.perf_counter()
        target = self._buffer[row]
        region = image
        if box is not None:
            x, y, width, height = box
            region = image[y : y + height, x : x + width]
        if self._bytes:
            _, affine = self._recipe.resized(region, target)
        else:
            resized, affine = self._recipe.resized(region)
            self._recipe.normalized(resized, target)
        if box is not None:
            affine = affine.shifted(box[0], box[1])
        spent = 1e3 * (time.perf_counter() - start)
        self.rows.append(Row(affine, (image.shape[1], image.shape[0]), box, spent))

    def clear(self) -> None:
        """Forget the rows; the memory stays."""
        self.rows = []


def check_image(image: Image, index: int) -> None:
    """Refuse what is no photograph.

    Raises:
        FoldcamError: not `uint8 [H, W, 3]`, or without pixels.
    """
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    good = isinstance(image, np.ndarray) and dtype == np.uint8 and image.ndim == 3
    if not good or image.shape[2] != 3 or 0 in image.shape:
        raise FoldcamError(
            f"Image {index} has shape {shape} and dtype {dtype}: give uint8 [H, W, 3] RGB."
        )
