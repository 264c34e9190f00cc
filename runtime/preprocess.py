"""The one implementation of preprocessing: bank, calibration and device share it.

Coordinates are continuous pixels: pixel `i` covers `[i, i + 1)`, so that scaling
an image of width `w` to width `W` multiplies x by exactly `W / w`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import numpy.typing as npt

ResizeRule = Literal["stretch", "crop", "letterbox"]
ColorOrder = Literal["rgb", "bgr"]
RESIZE_RULES: tuple[ResizeRule, ...] = get_args(ResizeRule)
COLOR_ORDERS: tuple[ColorOrder, ...] = get_args(ColorOrder)

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
    """

    width: int = 224
    height: int = 224
    resize: ResizeRule = "stretch"
    color: ColorOrder = "rgb"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def resized(self, image: Image) -> tuple[Image, Affine]:
        """Resize a frame to the input size.

        Args:
            image: `uint8 [H, W, 3]` RGB of any size.

        Returns:
            `uint8 [height, width, 3]` RGB, and the map from its pixels back to
            the frame's.
        """
        frame_height, frame_width = image.shape[:2]
        if self.resize == "stretch":
            return _resize(image, self.width, self.height), Affine(
                frame_width / self.width, frame_height / self.height, 0.0, 0.0
            )
        if self.resize == "crop":
            scale = min(frame_width / self.width, frame_height / self.height)
            crop_width = max(1, min(frame_width, round(self.width * scale)))
            crop_height = max(1, min(frame_height, round(self.height * scale)))
            left = (frame_width - crop_width) // 2
            top = (frame_height - crop_height) // 2
            region = image[top : top + crop_height, left : left + crop_width]
            return _resize(region, self.width, self.height), Affine(
                crop_width / self.width, crop_height / self.height, float(left), float(top)
            )
        scale = min(self.width / frame_width, self.height / frame_height)
        inner_width = max(1, min(self.width, round(frame_width * scale)))
        inner_height = max(1, min(self.height, round(frame_height * scale)))
        left = (self.width - inner_width) // 2
        top = (self.height - inner_height) // 2
        canvas = np.empty((self.height, self.width, 3), np.uint8)
        canvas[:] = self._padding_color()
        canvas[top : top + inner_height, left : left + inner_width] = _resize(
            image, inner_width, inner_height
        )
        scale_x, scale_y = frame_width / inner_width, frame_height / inner_height
        return canvas, Affine(scale_x, scale_y, -left * scale_x, -top * scale_y)

    def normalized(self, resized: Image) -> npt.NDArray[np.float32]:
        """Normalise a resized image.

        Args:
            resized: `uint8 [..., height, width, 3]` RGB, one image or a batch.

        Returns:
            `float32 [..., 3, height, width]` in the network's colour order.
        """
        ordered = resized if self.color == "rgb" else resized[..., ::-1]
        scale, shift = self.scale_and_shift()
        normalized = ordered.astype(np.float32) * scale + shift
        return np.ascontiguousarray(np.moveaxis(normalized, -1, -3))

    def scale_and_shift(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The normalisation as `pixel * scale + shift`, each `float32 [3]`."""
        std = np.asarray(self.std, np.float64)
        scale = 1.0 / (255.0 * std)
        shift = -np.asarray(self.mean, np.float64) / std
        return scale.astype(np.float32), shift.astype(np.float32)

    def _padding_color(self) -> npt.NDArray[np.uint8]:
        mean = np.clip(np.rint(np.asarray(self.mean) * 255.0), 0, 255).astype(np.uint8)
        return mean if self.color == "rgb" else mean[::-1]


def _resize(image: Image, width: int, height: int) -> Image:
    """Resize without aliasing: area averaging where it shrinks, then linear where it grows."""
    shrunk = (min(image.shape[1], width), min(image.shape[0], height))
    if shrunk != (image.shape[1], image.shape[0]):
        image = _as_image(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA))
    if shrunk != (width, height):
        image = _as_image(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    return image


def _as_image(array: npt.ArrayLike) -> Image:
    return np.asarray(array, np.uint8)
