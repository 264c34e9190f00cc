"""Boxes and contours around the hottest region and around the regions that the network gets."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.overlay import Heat

_LEVEL = 0.5
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
Mask = npt.NDArray[np.uint8]


def hottest_region(heat: Heat, level: float = _LEVEL) -> Mask | None:
    """The connected place around the maximum that is hotter than a share of it.

    Args:
        heat: `float32 [H, W]`; what is not finite counts as cold.
        level: the share, in (0, 1].

    Returns:
        `uint8 [H, W]`, 1 within the region and 0 elsewhere; None if nothing is hot.
    """
    if heat.size == 0:
        return None
    clean = np.nan_to_num(heat, nan=0.0, posinf=0.0, neginf=0.0)
    row, column = np.unravel_index(int(clean.argmax()), clean.shape)
    hottest = float(clean[row, column])
    if hottest <= 0.0:
        return None
    _, numbers = cv2.connectedComponents((clean >= level * hottest).astype(np.uint8))
    return np.asarray(numbers == numbers[row, column], np.uint8)


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest `(x, y, width, height)` that holds all of a region, which is not empty."""
    x, y, width, height = cv2.boundingRect(mask)
    return int(x), int(y), int(width), int(height)


def draw_contour(image: Image, mask: Mask) -> None:
    """Draw a region's edge: a white line within a black one, visible on any background.

    Args:
        image: `uint8 [H, W, 3]` RGB, drawn into.
        mask: `uint8 [H, W]`, 1 within the region.
    """
    edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thin = _line(image)
    cv2.drawContours(image, edges, -1, _BLACK, 3 * thin)
    cv2.drawContours(image, edges, -1, _WHITE, thin)


def draw_box(image: Image, box: tuple[int, int, int, int]) -> None:
    """Draw a box: a white line within a black one.

    Args:
        image: `uint8 [H, W, 3]` RGB, drawn into.
        box: `(x, y, width, height)` in pixels; may lie partly outside.
    """
    x, y, width, height = box
    thin = _line(image)
    corners = (x, y), (x + max(width, 1) - 1, y + max(height, 1) - 1)
    cv2.rectangle(image, *corners, _BLACK, 3 * thin)
    cv2.rectangle(image, *corners, _WHITE, thin)


def _line(image: Image) -> int:
    """A line's thickness in pixels, by the size of the picture."""
    short: int = min(image.shape[:2])
    return max(1, round(short / 400))
