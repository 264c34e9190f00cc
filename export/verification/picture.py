"""The worst images of a comparison, side by side: input, reference, model, difference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.export.verification.comparison import ImagePair
from foldcam.export.verification.run import VerifyReport
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay, overlay_both
from foldcam.runtime.model.drawing.text import draw_caption

_PANEL = 280
_GAP = 6
_BACKGROUND = 245


def worst_picture(report: VerifyReport) -> Image:
    """One row per image, the pairs one below the other.

    Returns:
        `uint8 [H, W, 3]` RGB: four panels beside each other in each row, in the network's
        aspect ratio. The difference is painted over grey, from nothing to its own maximum,
        which the caption names.
    """
    return picture_of(
        [
            (report.pairs[place].name, image)
            for place, images in enumerate(report.worst)
            for image in images
        ]
    )


def picture_of(pairs: Sequence[tuple[str, ImagePair]]) -> Image:
    """As `worst_picture`, for at least one image with the name of the model beside it."""
    return _stacked([_row(name, pair) for name, pair in pairs], axis=0)


def _row(model: str, pair: ImagePair) -> Image:
    image = _enlarged(pair.image)
    labels = [f": {label}" if label else "" for label in pair.labels]
    panels = [
        draw_caption(image, PurePath(pair.name).name),
        draw_caption(_painted(image, pair.expected), f"reference{labels[0]}"),
        draw_caption(_painted(image, pair.got), f"{model}{labels[1]}"),
        draw_caption(
            _difference(image, pair), f"differ by {pair.difference:.2g}, cosine {pair.cosine:.5f}"
        ),
    ]
    return _stacked(panels, axis=1)


def _enlarged(image: Image) -> Image:
    """Enlarge to a height at which a caption can be read; pixels stay square."""
    height, width = image.shape[:2]
    scale = _PANEL / max(1, min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _on(image: Image, heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    height, width = image.shape[:2]
    return heatmap_on_frame(heat, Affine(1.0, 1.0, 0.0, 0.0), (width, height), (width, height))


def _painted(image: Image, heat: npt.NDArray[np.float32]) -> Image:
    if len(heat) == 1:
        return overlay(image, _on(image, heat[0]))
    return overlay_both(image, _on(image, heat[0]), _on(image, heat[1]))


def _difference(image: Image, pair: ImagePair) -> Image:
    away = np.nan_to_num(np.abs(pair.got - pair.expected).max(axis=0), nan=1.0, posinf=1.0)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = away / max(float(away.max()), 1e-12)
    return overlay(np.asarray(grey, np.uint8), _on(image, share), colormap="inferno")


def _stacked(parts: Sequence[Image], axis: int) -> Image:
    """Parts beside or below each other, with gaps."""
    gap_shape = list(parts[0].shape)
    gap_shape[axis] = _GAP
    gap = np.full(gap_shape, _BACKGROUND, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)
