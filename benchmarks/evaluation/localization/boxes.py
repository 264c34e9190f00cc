"""Boxes around thresholded heatmaps, and their pixels as scores, against the true boxes.

MaxBoxAcc, MaxBoxAccV2 and PxAP are those of Choe et al. (CVPR 2020, arXiv 2001.07437; V2 in arXiv
2007.04178) as their code, clovaai/wsolevaluation, computes them:

* the map is resized to 224 x 224, scaled to ``[0, 1]`` by its minimum and maximum and rounded
  down to 8 bits, ``g = floor(255 s)``;
* for every threshold t of a sweep with step 0.001, the mask ``g > floor(255 t)`` is traced;
* MaxBoxAcc draws one box, around the contour of the largest area, and asks for IoU >= 0.5;
  MaxBoxAccV2 draws one around *every* contour (of holes too) and keeps the best, at IoU 0.3,
  0.5 and 0.7;
* both take the best threshold of the whole split (V2 one per IoU level, then the mean);
* for PxAP the pixels of *all* images are pooled, and the area under precision over recall is the
  sum of ``precision(t) * (recall(t) - recall(t + 0.001))``.

The 1000 thresholds of the sweep reach exactly the 255 grey levels 0 .. 254, and a mask changes
only at levels that occur in the map, so tracing each of those once *is* the whole sweep.

Two departures. The reference clips box corners to the last pixel, truncates the true box to
integers and adds 1 to every side when it takes an IoU. Here all boxes are half-open and exact,
so that a mask equal to the box has IoU 1; the reference's boxes are about one pixel of 224
larger (its IoUs came out 0.004 higher on average on simulated maps). And the reference has pixel
masks; here the box is the mask, and a pixel that its border cuts counts in part on both sides.

Beside PxAP, the average precision of every image by itself, by exact ranking: it has one value
per image, so a bootstrap can resample it, and no bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foldcam.benchmarks.evaluation.localization.metrics import (
    FloatArray,
    Size,
    as_boxes,
    as_heatmaps,
    as_size,
    coverage,
    resize_bilinear,
    unit_range,
)

RESOLUTION = 224
LEVELS = 255
IOU_MAX_BOX_ACC = 0.5
IOUS_MAX_BOX_ACC_V2 = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class FrozenLevels:
    """Grey levels chosen on one split, to be used on another."""

    largest: int  # level for MaxBoxAcc, 0 .. 254 (the threshold is ``largest / 255``)
    any_contour: tuple[int, ...]  # one level for each IoU of :data:`IOUS_MAX_BOX_ACC_V2`


@dataclass(frozen=True, eq=False)
class BoxAccuracy:
    """IoU of every image at every threshold, and the accuracies that follow from them.

    Every method takes ``indices``, ``int [M]`` images with repetition (all of them by default),
    so that a bootstrap can resample images and choose the threshold again each time:
    ``bootstrap_of(accuracy.max_box_acc_v2, accuracy.count)``.
    """

    # ``float64 [N, 255]`` in ``[0, 1]``; column g is the IoU of the box around the largest
    # contour of the mask ``grey > g``, so of the threshold ``g / 255``
    iou_largest: FloatArray
    iou_any: FloatArray  # ``float64 [N, 255]``, the best IoU over all contours of the same masks

    @property
    def count(self) -> int:
        """Number of images N."""
        return int(self.iou_largest.shape[0])

    def max_box_acc(self, indices: NDArray[np.intp] | None = None) -> float:
        """Share of images with IoU >= 0.5 at the best threshold, in ``[0, 1]``."""
        return float(self._curve(self._hits_largest, indices).max())

    def max_box_acc_v2(self, indices: NDArray[np.intp] | None = None) -> float:
        """Mean over the IoU levels 0.3, 0.5, 0.7 of the share at each one's best threshold."""
        return float(np.mean([self._curve(hits, indices).max() for hits in self._hits_any]))

    def best_levels(self, indices: NDArray[np.intp] | None = None) -> FrozenLevels:
        """The best thresholds, to freeze and use on another split.

        Of several equally good ones the middle is taken: the one that a small shift hurts least.
        """
        return FrozenLevels(
            largest=_middle_of_best(self._curve(self._hits_largest, indices)),
            any_contour=tuple(
                _middle_of_best(self._curve(hits, indices)) for hits in self._hits_any
            ),
        )

    def box_acc_at(self, levels: FrozenLevels, indices: NDArray[np.intp] | None = None) -> float:
        """As :meth:`max_box_acc`, at a threshold that another split has chosen."""
        return float(self._curve(self._hits_largest, indices)[levels.largest])

    def box_acc_v2_at(self, levels: FrozenLevels, indices: NDArray[np.intp] | None = None) -> float:
        """As :meth:`max_box_acc_v2`, at thresholds that another split has chosen."""
        pairs = zip(self._hits_any, levels.any_contour, strict=True)
        return float(np.mean([self._curve(hits, indices)[level] for hits, level in pairs]))

    @cached_property
    def _hits_largest(self) -> NDArray[np.float32]:
        return (self.iou_largest >= IOU_MAX_BOX_ACC).astype(np.float32)

    @cached_property
    def _hits_any(self) -> list[NDArray[np.float32]]:
        return [(self.iou_any >= iou).astype(np.float32) for iou in IOUS_MAX_BOX_ACC_V2]

    def _curve(self, hits: NDArray[np.float32], indices: NDArray[np.intp] | None) -> FloatArray:
        """Share of images hit at each level, ``float64 [255]``."""
        if indices is None:
            return np.asarray(hits.mean(axis=0, dtype=np.float64))
        # A count per image and one product: no [M, 255] copy for each of thousands of draws.
        # Whole numbers below 2^24 are exact in float32.
        weights = np.bincount(indices, minlength=self.count).astype(np.float32)
        hit_counts: FloatArray = (weights @ hits).astype(np.float64)
        return hit_counts / len(indices)


def box_accuracy(
    heatmaps: ArrayLike, boxes: ArrayLike, image_size: Size, *, resolution: int = RESOLUTION
) -> BoxAccuracy:
    """Trace every heatmap at every threshold and compare the boxes found with the true ones.

    Args:
        heatmaps: ``[N, h, w]``, finite; scaled per image here. A flat map has no contour and IoU 0
            at every threshold, as in the reference (so a uniform baseline scores 0).
        boxes: ``[N, 4]``, half-open ``(x0, y0, x1, y1)`` pixels, clipped to the image.
        image_size: ``(height, width)`` of the images the boxes are given in.

    Example:
        >>> maps = [np.pad(np.ones((2, 2)), 1)]
        >>> box_accuracy(maps, [(1, 1, 3, 3)], (4, 4), resolution=4).max_box_acc()
        1.0
    """
    maps = as_heatmaps(heatmaps)
    true_boxes = as_boxes(boxes, len(maps))
    height, width = as_size(image_size)
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    limits = np.array([width, height, width, height], dtype=np.float64)
    true_boxes = np.clip(true_boxes, 0.0, limits) * (resolution / limits)
    rows = [
        _ious_at_levels(_grey(heatmap, resolution), box)
        for heatmap, box in zip(maps, true_boxes, strict=True)
    ]
    return BoxAccuracy(
        iou_largest=np.stack([largest for largest, _ in rows]),
        iou_any=np.stack([any_contour for _, any_contour in rows]),
    )


def _grey(heatmap: FloatArray, resolution: int) -> NDArray[np.uint8]:
    """The 8-bit map that is thresholded, ``uint8 [resolution, resolution]``."""
    resized = resize_bilinear(heatmap, (resolution, resolution))
    return (unit_range(resized) * LEVELS).astype(np.uint8)


def _ious_at_levels(grey: NDArray[np.uint8], box: FloatArray) -> tuple[FloatArray, FloatArray]:
    """IoU of the largest and of the best contour at each level, two ``float64 [255]``."""
    largest = np.zeros(LEVELS)
    any_contour = np.zeros(LEVELS)
    # The mask grey > g is the same for all g from one grey value that occurs to the next. The
    # first is 0 and the last 255, except in a flat map, which has one value and no contour.
    for level, following in pairwise(np.unique(grey).tolist()):
        mask = (grey > level).view(np.uint8)
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        ious = _ious(np.array([cv2.boundingRect(contour) for contour in contours]), box)
        areas = [cv2.contourArea(contour) for contour in contours]
        largest[level:following] = ious[int(np.argmax(areas))]
        any_contour[level:following] = ious.max()
    return largest, any_contour


def _ious(found: NDArray[np.integer], box: FloatArray) -> FloatArray:
    """IoU of found boxes ``int [M, 4]`` (x, y, width, height) with one box, ``float64 [M]``."""
    corner, side = found[:, :2].astype(np.float64), found[:, 2:].astype(np.float64)
    shared = np.minimum(corner + side, box[2:]) - np.maximum(corner, box[:2])
    intersection = np.maximum(shared, 0.0).prod(axis=1)
    union = side.prod(axis=1) + float((box[2:] - box[:2]).prod()) - intersection
    ratio: FloatArray = intersection / union
    return ratio


def _middle_of_best(curve: FloatArray) -> int:
    best = np.flatnonzero(curve == curve.max())
    return int(best[len(best) // 2])


# Thresholds 0, 0.001 .. 0.999 and one bin for the value 1 itself.
STEPS = 1000


@dataclass(frozen=True, eq=False)
class PixelPrecision:
    """Pixel average precision of a set of images."""

    # ``float64 [N]`` in ``[0, 1]``, exact average precision of each image. Tied pixels enter
    # together. 0.0 where the box lies outside the image (nothing to find)
    per_image: FloatArray
    # ``float32 [N, 1001]``, pixels inside the box by score; bin b holds the scores ``b / 1000 <=
    # s < (b + 1) / 1000``
    inside: NDArray[np.float32]
    total: NDArray[np.float32]  # ``float32 [N, 1001]``, all pixels by score

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
