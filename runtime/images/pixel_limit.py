"""How large a picture may be, asked of its header before anything is decoded.

A few kilobytes can promise a picture of many gigabytes, so the promise is bounded, in every
program alike, and by one variable of the environment.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from foldcam.runtime.system.errors import FoldcamError

VARIABLE = "FOLDCAM_MAX_MEGAPIXELS"
DEFAULT_MEGAPIXELS = 100.0
_OF_OPENCV = "OPENCV_IO_MAX_IMAGE_PIXELS"
_MOST_MEGAPIXELS = 1_000_000.0


def max_pixels() -> int:
    """Pixels that one picture may have."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return round(1e6 * DEFAULT_MEGAPIXELS)
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = math.nan
    if not 0 < megapixels <= _MOST_MEGAPIXELS:
        raise FoldcamError(
            f"{VARIABLE}={text[:40]!r} is no number of megapixels: give one above 0 and up to "
            f"{_MOST_MEGAPIXELS:.0f}, or leave it out for {DEFAULT_MEGAPIXELS:g}."
        )
    return max(1, round(1e6 * megapixels))


def check_pixels(width: int, height: int, path: Path | str) -> None:
    """Refuse a picture or a film whose header promises too many pixels."""
    most = max_pixels()
    if width * height > most:
        needed = math.ceil(width * height / 1e6)
        raise FoldcamError(
            f"{path} has {width} x {height} pixels, more than the {most / 1e6:g} megapixels that "
            f"foldcam decodes: make it smaller, or set {VARIABLE}={needed} if this machine has "
            "the memory."
        )


def bound_decoder() -> None:
    """Give OpenCV the same limit; it reads it once, when it is loaded.

    Ours comes first and has the sentence. This one holds for a file whose header OpenCV
    understands in another way than we do.
    """
    try:
        most = max_pixels()
    except FoldcamError:
        most = round(1e6 * DEFAULT_MEGAPIXELS)
    if os.environ.get(VARIABLE):
        os.environ[_OF_OPENCV] = str(most)
    else:
        os.environ.setdefault(_OF_OPENCV, str(most))
