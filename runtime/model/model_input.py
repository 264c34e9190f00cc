"""What a folded model's input holds of a picture: one answer for runs, gates and comparisons."""

from __future__ import annotations

import numpy as np

from foldcam.runtime.backends import Array, dtype_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Affine, Image, framed, shown_smaller


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
