"""Pictures to be shown small: fitted into a size, and as JPEG."""

from __future__ import annotations

import cv2
import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError


def fitted(image: Image, width: int, height: int, *, enlarge: bool = False) -> Image:
    """The picture at the largest size of its own proportions that fits.

    Args:
        image: `uint8 [H, W, 3]` RGB, or `[H, W]`.
        width, height: in pixels, that it has at most; it keeps at least one of each.
        enlarge: whether a smaller picture is made larger; otherwise it is returned as it is.
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    if scale == 1 or (scale > 1 and not enlarge):
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """`uint8 [H, W, 3]` RGB as JPEG."""
    try:
        done, data = cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
    except cv2.error:
        done = False
    if not done:
        raise FoldcamError(f"A picture of {image.shape[1]} x {image.shape[0]} cannot be encoded.")
    return bytes(data)
