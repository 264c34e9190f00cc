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

Side = Annotated[int, Meta(ge=1, le=1 << 14)]
"""Pixels of a side of the network's input, and of a heatmap's."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Image = npt.NDArray[np.uint8]
"""`uint8 [H, W, 3]`, RGB."""


class Affine(NamedTuple):
    """Maps network-input pixels to frame pixels: `x_frame = scale_x * x + offset_x`."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def shifted(self, x: float, y: float) -> Affine:
        """The map into a frame in which what this one maps to begins at `(x, y)`."""
        return self._replace(offset_x=self.offset_x + x, offset_y=self.offset_y + y)


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
        return out, self._resize_into(image, out)

    def _resize_into(self, image: Image, out: Image) -> Affine:
        frame_height, frame_width = image.shape[:2]
        if self.resize == "stretch":
            _resize(image, out)
            return Affine(frame_width / self.width, frame_height / self.height, 0.0, 0.0)
        if self.resize == "crop":
            scale = min(frame_width / self.width, frame_height / self.height)
            crop_width = max(1, min(frame_width, round(self.width * scale)))
            crop_height = max(1, min(frame_height, round(self.height * scale)))
            left = (frame_width - crop_width) // 2
            top = (frame_height - crop_height) // 2
            region = image[top : top + crop_height, left : left + crop_width]
            _resize(region, out)
            return Affine(
                crop_width / self.width, crop_height / self.height, float(left), float(top)
            )
        scale = min(self.width / frame_width, self.height / frame_height)
        inner_width = max(1, min(self.width, round(frame_width * scale)))
        inner_height = max(1, min(self.height, round(frame_height * scale)))
        left = (self.width - inner_width) // 2
        top = (self.height - inner_height) // 2
        out[:] = self._padding_color()
        _resize(image, out[top : top + inner_height, left : left + inner_width])
        scale_x, scale_y = frame_width / inner_width, frame_height / inner_height
        return Affine(scale_x, scale_y, -left * scale_x, -top * scale_y)

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

    def _padding_color(self) -> npt.NDArray[np.uint8]:
        mean = np.clip(np.rint(np.asarray(self.mean) * 255.0), 0, 255).astype(np.uint8)
        return mean if self.color == "rgb" else mean[::-1]


def _resize(image: Image, out: Image) -> None:
    """Resize without aliasing: area averaging where it shrinks, then linear where it grows."""
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
