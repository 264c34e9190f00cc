"""Why a torch network cannot run on the images it is given: what it does run on is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# (height, width) that networks in use are made for.
_SIZES = (
    (224, 224),
    (112, 112),
    (256, 256),
    (384, 384),
    (128, 128),
    (64, 64),
    (32, 32),
    (256, 128),
)
_NO_IMAGES = ((2, 16000), (2, 1, 16000), (2, 80, 400), (2, 3, 16000))


def advice(run: Callable[[torch.Tensor], Any], images: torch.Tensor) -> str:
    """What to do about a network that fails on images.

    Args:
        images: `float32 [N, 3, H, W]` that it fails on.

    Returns:
        The end of a sentence, with a `--size` that was tried where one works; empty where
        nothing that was tried does.
    """
    count = len(images)
    for height, width in _SIZES:
        if _runs(run, (count, 3, height, width)):
            size = f"{width}" if width == height else f"{width}x{height}"
            return f"; it runs at --size {size}"
    if _runs(run, (count, 1, *images.shape[2:])):
        return "; it takes grey images: wrap it so that it averages three channels"
    if any(_runs(run, shape) for shape in _NO_IMAGES):
        return "; it takes no images [N, 3, H, W] but rows of numbers, such as sound"
    return ""


def _runs(run: Callable[[torch.Tensor], Any], shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            run(torch.zeros(shape))
    except Exception:
        # A user's code: anything may come out of it.
        return False
    return True
