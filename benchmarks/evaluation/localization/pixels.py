"""Pixel average precision: a heatmap's values as scores for lying in the box.

PxAP of Choe et al. (CVPR 2020) as clovaai/wsolevaluation computes it: maps are resized to
224 x 224 and scaled to ``[0, 1]``, the pixels of *all* images are pooled, a threshold is swept
with step 0.001, and the area under precision over recall is the sum of
``precision(t) * (recall(t) - recall(t + 0.001))``. The reference has pixel masks; here the box
is the mask, and a pixel that the box's border cuts counts in part on both sides.

Beside it, the average precision of every image by itself, by exact ranking: it has one value
per image, so a bootstrap can resample it, and no bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foldcam.benchmarks.evaluation.localization.boxes import RESOLUTION
from foldcam.benchmarks.evaluation.localization.geometry import (
    FloatArray,
    Size,
    as_boxes,
    as_heatmaps,
    as_size,
    coverage,
    resize_bilinear,
    unit_range,
)

# Thresholds 0, 0.001 .. 0.999 and one bin for the value 1 itself.
STEPS = 1000


@dataclass(frozen=True, eq=False)
class PixelPrecision:
    """Pixel average precision of a set of images.

    Attributes:
        per_image: ``float64 [N]`` in ``[0, 1]``, exact average precision of each image. Tied
            pixels enter together. 0.0 where the box lies outside the image (nothing to find).
        inside: ``float32 [N, 1001]``, pixels inside the box by score; bin b holds the scores
            ``b / 1000 <= s < (b + 1) / 1000``.
        total: ``float32 [N, 1001]``, all pixels by score.
    """

    per_image: FloatArray
    inside: NDArray[np.float32]
    total: NDArray[np.float32]

    @property
    def count(self) -> int:
        """Number of images N."""
        return int(self.per_image.shape[0])

    def pooled(self, indices: NDArray[np.intp] | None = None) -> float:
        """PxAP over the pooled pixels of the images, in ``[0, 1]``.

        Args:
            indices: ``int [M]`` images with repetition, for ``bootstrap_of``; all by default.
        """
        chosen = np.arange(self.count) if indices is None else indices
        # float32 like the counts: a float64 factor would copy them for each of many draws.
        weights = np.bincount(chosen, minlength=self.count).astype(np.float32)
        inside, total = (
            (weights @ counts)[::-1].astype(np.float64) for counts in (self.inside, self.total)
        )
        return _average_precision(inside, total)

    def mean(self, indices: NDArray[np.intp] | None = None) -> float:
        """Mean of :attr:`per_image`, over all images or over ``indices``."""
        return float(np.mean(self.per_image if indices is None else self.per_image[indices]))


def pixel_average_precision(
    heatmaps: ArrayLike, boxes: ArrayLike, image_size: Size, *, resolution: int = RESOLUTION
) -> PixelPrecision:
    """Score every heatmap's pixels against its box.

    A map that orders nothing has the precision of chance: the box's share of the image.

    Args:
        heatmaps: ``[N, h, w]``, finite; scaled per image here.
        boxes: ``[N, 4]``, half-open ``(x0, y0, x1, y1)`` pixels.
        image_size: ``(height, width)`` of the images the boxes are given in.
        resolution: side of the square map whose pixels are ranked.

    Returns:
        The pooled and the per-image precision; ``pixel_ap`` of the reports is ``mean()``,
        the reference's PxAP is ``pooled()``.

    Raises:
        ValueError: shapes, boxes or sizes that ``geometry`` refuses.

    Example:
        >>> maps = [[[0.9, 0.1], [0.8, 0.2]]]
        >>> pixel_average_precision(maps, [(0, 0, 1, 2)], (2, 2), resolution=2).mean()
        1.0
    """
    maps = as_heatmaps(heatmaps)
    true_boxes = as_boxes(boxes, len(maps))
    size = as_size(image_size)
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    shape = (resolution, resolution)
    per_image = np.empty(len(maps))
    inside = np.empty((len(maps), STEPS + 1), dtype=np.float32)
    total = np.empty((len(maps), STEPS + 1), dtype=np.float32)
    for i, (heatmap, box) in enumerate(zip(maps, true_boxes, strict=True)):
        scores = unit_range(resize_bilinear(heatmap, shape)).ravel()
        covered = coverage(box, size, shape).ravel()
        per_image[i] = _exact_average_precision(scores, covered)
        bins = (scores * STEPS).astype(np.intp)
        inside[i] = np.bincount(bins, weights=covered, minlength=STEPS + 1)
        total[i] = np.bincount(bins, minlength=STEPS + 1)
    return PixelPrecision(per_image=per_image, inside=inside, total=total)


def _exact_average_precision(scores: FloatArray, covered: FloatArray) -> float:
    """Average precision of scores ``[P]`` for the weights ``covered [P]``, ties as one group."""
    order = np.argsort(-scores)
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    inside = np.cumsum(covered[order])[ends]
    return _average_precision(np.diff(inside, prepend=0.0), np.diff(ends + 1.0, prepend=0.0))


def _average_precision(inside: FloatArray, total: FloatArray) -> float:
    """``sum_g precision_g * (recall_g - recall_(g-1))`` over groups of falling score.

    Args:
        inside: ``[G]`` positive weight in each group, the highest score first.
        total: ``[G]`` whole weight in each group; empty groups add nothing.

    Returns:
        A value in ``[0, 1]``; 0.0 where nothing is positive.
    """
    positives = float(inside.sum())
    if positives <= 0.0:
        return 0.0
    selected = np.cumsum(total)
    precision = np.cumsum(inside) / np.where(selected > 0.0, selected, 1.0)
    return float((precision * inside).sum() / positives)
