"""An image as callers in Python have it: an array, a file, or a picture of Pillow's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageLike = Union[Image, str, Path, "PillowImage"]
"""`uint8 [H, W, 3]` RGB, the path of a photograph, or a `PIL.Image.Image`."""


def as_image(given: ImageLike) -> Image:
    """The pixels of what a caller gave; an array is returned as it is.

    Of a file and of a Pillow picture opened from that file the network sees the same: the EXIF
    rotation is applied, alpha is dropped, 16 bits become 8 by the high byte.
    """
    if isinstance(given, (str, Path)):
        # Loaded here: the reader of files brings OpenCV.
        from foldcam.runtime.images.files import read_image

        return read_image(given)
    pillow: Any = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(given, pillow.Image):
        return given  # type: ignore[return-value]
    return _of_pillow(given)


def _of_pillow(picture: PillowImage) -> Image:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        grey = (np.asarray(upright) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if upright.mode in ("I", "F"):
        raise FoldcamError(
            f"The picture has Pillow's mode {upright.mode!r}, whose range foldcam cannot know: "
            'convert it to "RGB" first.'
        )
    return np.asarray(upright.convert("RGB"))
