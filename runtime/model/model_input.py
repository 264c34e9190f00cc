"""What a folded model's input holds of a picture: one answer for runs, gates and comparisons."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from foldcam.runtime.backends import Array, dtype_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Affine, Image, framed, shown_smaller
from foldcam.runtime.sources.options import Box
from foldcam.runtime.system.errors import FoldcamError


class ModelInput:
    """Makes the input `image` of pictures of any size.

    Attributes:
        width, height: of the pictures that the file takes: the frame's where its graph makes the
            network's input of whole frames, else the network's own.
        normalizes: whether the graph normalises by itself, so that it takes bytes.
    """

    def __init__(self, contract: Contract) -> None:
        self._recipe = contract.preprocessing
        self._frame = contract.frame
        self._dtype = dtype_of(contract)
        self.width, self.height = contract.image_size
        self.normalizes = contract.input_type == "uint8"

    def picture(self, image: Image, out: Image | None = None) -> tuple[Image, Affine]:
        """A picture at the size that the file takes.

        Args:
            image: `uint8 [H, W, 3]` RGB of any size.
            out: `uint8 [height, width, 3]` that is written and returned, if given.

        Returns:
            `uint8 [height, width, 3]` RGB, and the map from pixels of the *network's input* to
            pixels of the picture.
        """
        if self._frame is None:
            return self._recipe.resized(image, out)
        return framed(image, self._recipe, self._frame, out)

    def shows_smaller(self, width: int, height: int) -> bool:
        """Whether a picture of a size is shown smaller than to the model without a frame."""
        return self._frame is not None and shown_smaller((width, height), self._recipe, self._frame)

    def ready(self, pictures: Array, out: Array | None = None) -> Array:
        """Pictures as the model's `image`."""
        if self.normalizes:
            return pictures
        return self._recipe.normalized(pictures, out)

    def empty(self, count: int) -> Array:
        """Memory for the `image` of so many pictures."""
        size = (self.height, self.width)
        return np.empty((count, *size, 3) if self.normalizes else (count, 3, *size), self._dtype)


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
    """Rows of a model's input, filled one by one and used again after `clear`."""

    def __init__(self, contract: Contract, capacity: int) -> None:
        self._input = ModelInput(contract)
        self._frame = contract.frame
        self._buffer: Array = self._input.empty(capacity)
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
            FoldcamError: it is not such an array, or a box is given and the model takes whole
                frames.
            IndexError: the batch is full.
        """
        row = len(self.rows)
        check_image(image, row)
        start = time.perf_counter()
        target = self._buffer[row]
        region = image
        if box is not None:
            if self._frame is not None:
                raise FoldcamError(whole_frames_text(self._frame))
            x, y, width, height = box
            region = image[y : y + height, x : x + width]
        if self._input.normalizes:
            _, affine = self._input.picture(region, target)
        else:
            resized, affine = self._input.picture(region)
            self._input.ready(resized, target)
        if box is not None:
            affine = affine.shifted(box[0], box[1])
        spent = 1e3 * (time.perf_counter() - start)
        self.rows.append(Row(affine, (image.shape[1], image.shape[0]), box, spent))

    def clear(self) -> None:
        """Forget the rows; the memory stays."""
        self.rows = []


def whole_frames_text(frame: tuple[int, int]) -> str:
    """Why a model of whole frames is not shown regions of them."""
    return (
        f"The model takes whole frames of {frame[0]} x {frame[1]} (--frame), of which no regions "
        "can be cut out: export or fold it without --frame for boxes, grids and detectors."
    )


def check_image(image: Image, index: int) -> None:
    """Refuse what is no photograph."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    good = isinstance(image, np.ndarray) and dtype == np.uint8 and image.ndim == 3
    if not good or image.shape[2] != 3 or 0 in image.shape:
        raise FoldcamError(
            f"Image {index} has shape {shape} and dtype {dtype}: give uint8 [H, W, 3] RGB."
        )
