"""Pictures of one size, for contact sheets."""

from __future__ import annotations

import cv2
import numpy as np

from foldcam.runtime.images.preprocess import Image


def stretched(image: Image, side: int) -> Image:
    """The picture as a square of so many pixels, whatever its proportions."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
