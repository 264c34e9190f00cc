"""The one implementation of preprocessing: bank, calibration and device share it.

Coordinates are continuous pixels: pixel `i` covers `[i, i + 1)`, so that scaling
an image of width `w` to width `W` multiplies x by exactly `W / w`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from foldcam.runtime.system.documents import Finite, KeyProblem

ResizeRule = Literal["stretch", "crop", "letterbox"]
ColorOrder = Literal["rgb", "bgr"]
RESIZE_RULES: tuple[ResizeRule, ...] = get_args(ResizeRule)
COLOR_ORDERS: tuple[ColorOrder, ...] = get_args(ColorOrder)

MAX_SIDE = 1 << 14
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
"""Pixels of a side of the network's input, and of a heatmap's."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Image = npt.NDArray[np.uint8]
"""`uint8 [H, W, 3]`, RGB."""
Size = tuple[int, int]
"""`(width, height)` in pixels."""


class Affine(NamedTuple):
    """Maps network-input pixels to frame pixels: `x_frame = scale_x * x + offset_x`."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def shifted(self, x: float, y: float) -> Affine:
        """The map into a frame in which what this one maps to begins at `(x, y)`."""
        return self._replace(offset_x=self.offset_x + x, offset_y=self.offset_y + y)


def scaled(affine: Affine, across: float, down: float) -> Affine:
    """The map into the same frame at another size, so many times as wide and as high."""
    return Affine(
        affine.scale_x * across, affine.scale_y * down,
        affine.offset_x * across, affine.offset_y * down,
    )  # fmt: skip


class Fit(NamedTuple):
    """Which part of a frame is shown where in the network's input.

    Attributes:
        region: `(x, y, width, height)` of the frame, in its pixels.
        place: where the region lies in the input, in its pixels; padding is around it.
    """

    region: tuple[int, int, int, int]
    place: tuple[int, int, int, int]

    @property
    def affine(self) -> Affine:
        """The map from the input's pixels back to the frame's."""
        (x, y, width, height), (left, top, across, down) = self
        scale_x, scale_y = width / across, height / down
        return Affine(scale_x, scale_y, x - left * scale_x, y - top * scale_y)


@dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes the network's input.

    Attributes:
        width, height: size of the network's input in pixels.
        resize: `stretch` ignores the aspect ratio; `crop` keeps the largest
            centred region of the input's aspect ratio; `letterbox` keeps the
            whole frame and pads with the mean colour.
        color: channel order of the network's input (frames are always RGB).
        mean, std: per channel of the network's input, for pixels in [0, 1]:
            `input = (pixel / 255 - mean) / std`.

    Raises:
        FoldcamError: a number of `std` is zero.
    """

    width: Side = 224
    height: Side = 224
    resize: ResizeRule = "stretch"
    color: ColorOrder = "rgb"
    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Finite, Finite, Finite] = IMAGENET_STD

    def __post_init__(self) -> None:
        if min(map(abs, self.std)) < 1e-9:
            raise KeyProblem("std", "must not be zero")

    def resized(self, image: Image, out: Image | None = None) -> tuple[Image, Affine]:
        """Resize a frame to the input size.

        Args:
            image: `uint8 [H, W, 3]` RGB of any size.
            out: `uint8 [height, width, 3]` that is written and returned, if given.

        Returns:
            `uint8 [height, width, 3]` RGB, and the map from its pixels back to
            the frame's.
        """
        if out is None:
            out = np.empty((self.height, self.width, 3), np.uint8)
        fit = self.fit(image.shape[1], image.shape[0])
        if self.resize == "letterbox":
            out[:] = self.padding_color()
        x, y, width, height = fit.region
        left, top, across, down = fit.place
        region = image[y : y + height, x : x + width]
        resize(region, out[top : top + down, left : left + across])
        return out, fit.affine

    def fit(self, width: int, height: int) -> Fit:
        """Which part of a frame of that size is shown where, by the resize rule."""
        whole = (0, 0, self.width, self.height)
        if self.resize == "stretch":
            return Fit((0, 0, width, height), whole)
        if self.resize == "crop":
            scale = min(width / self.width, height / self.height)
            across = max(1, min(width, round(self.width * scale)))
            down = max(1, min(height, round(self.height * scale)))
            return Fit(((width - across) // 2, (height - down) // 2, across, down), whole)
        scale = min(self.width / width, self.height / height)
        across = max(1, min(self.width, round(width * scale)))
        down = max(1, min(self.height, round(height * scale)))
        place = ((self.width - across) // 2, (self.height - down) // 2, across, down)
        return Fit((0, 0, width, height), place)

    def normalized(
        self, resized: Image, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Normalise a resized image.

        Args:
            resized: `uint8 [..., height, width, 3]` RGB, one image or a batch.
            out: `float32 [..., 3, height, width]` that is written and returned, if given.

        Returns:
            `float32 [..., 3, height, width]` in the network's colour order.
        """
        if out is None:
            *before, height, width, channels = resized.shape
            out = np.empty((*before, channels, height, width), np.float32)
        scale, shift = self.scale_and_shift()
        for channel in range(3):
            plane = out[..., channel, :, :]
            of_frame = channel if self.color == "rgb" else 2 - channel
            np.multiply(resized[..., of_frame], scale[channel], out=plane, dtype=np.float32)
            plane += shift[channel]
        return out

    def scale_and_shift(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The normalisation as `pixel * scale + shift`, each `float32 [3]`."""
        std = np.asarray(self.std, np.float64)
        scale = 1.0 / (255.0 * std)
        shift = -np.asarray(self.mean, np.float64) / std
        return scale.astype(np.float32), shift.astype(np.float32)

    def padding_color(self) -> npt.NDArray[np.uint8]:
        """What letterbox pads with: the mean colour, `uint8 [3]` RGB."""
        mean = np.clip(np.rint(np.asarray(self.mean) * 255.0), 0, 255).astype(np.uint8)
        return mean if self.color == "rgb" else mean[::-1]


def resize(image: Image, out: Image) -> None:
    """Resize without aliasing: area averaging where it shrinks, then linear where it grows.

    Args:
        image: `uint8 [H, W, 3]`.
        out: `uint8 [h, w, 3]`, which is written.
    """
    # Loaded here, so that naming a model in Python does not load OpenCV.
    import cv2

    height, width = out.shape[:2]
    shrunk = (min(image.shape[1], width), min(image.shape[0], height))
    grows = shrunk != (width, height)
    if shrunk != (image.shape[1], image.shape[0]):
        target = None if grows else out
        image = _as_image(cv2.resize(image, shrunk, target, interpolation=cv2.INTER_AREA))
    if grows:
        image = _as_image(cv2.resize(image, (width, height), out, interpolation=cv2.INTER_LINEAR))
    if image is not out and not np.may_share_memory(image, out):
        out[:] = image


def _as_image(array: npt.ArrayLike) -> Image:
    return np.asarray(array, np.uint8)


def framed(
    image: Image, recipe: Preprocessing, frame: Size, out: Image | None = None
) -> tuple[Image, Affine]:
    """A picture as a frame of which the graph makes the network's input, by the same recipe.

    A frame of the right size is taken as it is. Of any other picture the network is shown what
    the recipe alone would show it, resized twice; only where the recipe is `letterbox` and the
    picture is taller or wider than the frame in its proportions, it is shown smaller.

    Args:
        image: `uint8 [H, W, 3]` RGB of any size.
        out: `uint8 [height, width, 3]` that is written and returned, if given.

    Returns:
        `uint8 [height, width, 3]` RGB, and the map from pixels of the *network's input* to
        pixels of the picture.
    """
    width, height = frame
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    size = image.shape[1], image.shape[0]
    affine = framed_affine(size, recipe, frame)
    if size == frame:
        out[:] = image
        return out, affine
    if recipe.resize == "letterbox":
        _within(recipe, frame).resized(image, out)
        return out, affine
    out[:] = 0  # what the graph cuts off
    x, y, across, down = recipe.fit(*size).region
    left, top, wide, high = recipe.fit(*frame).region
    resize(image[y : y + down, x : x + across], out[top : top + high, left : left + wide])
    return out, affine


def framed_affine(size: Size, recipe: Preprocessing, frame: Size) -> Affine:
    """The map of `framed` for pictures of a size, from the network's input to the picture."""
    if recipe.resize != "letterbox" or size == frame:
        return recipe.fit(*size).affine
    inner, outer = _within(recipe, frame).fit(*size).affine, recipe.fit(*frame).affine
    return Affine(
        inner.scale_x * outer.scale_x, inner.scale_y * outer.scale_y,
        inner.scale_x * outer.offset_x + inner.offset_x,
        inner.scale_y * outer.offset_y + inner.offset_y,
    )  # fmt: skip


def shown_smaller(size: Size, recipe: Preprocessing, frame: Size) -> bool:
    """Whether a picture of a size is shown smaller as a frame than the recipe alone shows it."""
    scale = framed_affine(size, recipe, frame).scale_x / recipe.fit(*size).affine.scale_x
    # Sides are whole pixels.
    return scale > 1.05


def _within(recipe: Preprocessing, frame: Size) -> Preprocessing:
    width, height = frame
    return Preprocessing(width, height, recipe.resize, recipe.color, recipe.mean, recipe.std)
