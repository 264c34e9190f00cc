"""Figures as PNG files that say which result they were drawn from, and tiles of contact sheets.

Two versions of matplotlib draw the same result a little differently, so that a plot's bytes
say nothing. Each carries the hash of the result that it was drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.system.files import atomic_path

SOURCE = "Source"
"""Where a PNG keeps the hash of the result that it was drawn from."""


def new_figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, layout="constrained", **options)


def save_figure(figure: Any, path: Path, source: str = "", dpi: int = 100) -> None:
    """Write a figure as PNG, whole or not at all, and close it.

    Args:
        source: hash of the result that it was drawn from, kept in the file.
    """
    from matplotlib import pyplot

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata={SOURCE: source} if source else None)
    pyplot.close(figure)


def stretched(image: Image, side: int) -> Image:
    """The picture as a square of so many pixels, whatever its proportions."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def captioned(image: Image, side: int, caption: str) -> Image:
    """The picture as a square tile with a caption."""
    return draw_caption(stretched(image, side), caption)


def heated(image: Image, heat: npt.NDArray[np.floating[Any]]) -> Image:
    """A picture under a map `[h, w]` that covers it and is not negative, scaled by its maximum."""
    greatest = float(heat.max())
    scaled = np.asarray(heat / greatest if greatest > 0 else heat, np.float32)
    size = (image.shape[1], image.shape[0])
    return overlay(image, heatmap_on_frame(scaled, Affine(1.0, 1.0, 0.0, 0.0), size, size))
