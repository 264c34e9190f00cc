"""Insertion and deletion: what the network itself says of a heatmap's order.

Petsiuk et al. (RISE, BMVC 2018). Cells of the image are hidden, or shown, in the map's order
and the score is taken at every step: a faithful map makes it fall fast (deletion, low is good)
and rise fast (insertion, high is good). What is hidden is blurred, with a soft edge: a black
cell would be evidence of its own, and so would a hard edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike, NDArray

from foldcam.benchmarks.evaluation.localization.metrics import FloatArray, as_heatmap
from foldcam.runtime.images.preprocess import Affine, Image

Images = NDArray[Any]
ScoreFunction = Callable[[Images], ArrayLike]


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """Scores of one image while its cells are shown and hidden in a map's order.

    Both curves run between the same two scores, of the blurred and of the whole image. The
    areas are normalised by them: 0 is the score of the blurred image, 1 of the whole one, so
    that a random order is near 0.5 and images compare. An area is NaN where the whole image
    scores no higher than the blurred one: there is then no evidence to find. Over a set of
    images use `CurvePool`, which such images do not upset.
    """

    share: FloatArray  # ``float64 [S + 1]``, share of the cells changed so far, from 0 to 1
    insertion: FloatArray  # ``float64 [S + 1]``, score with that share shown, the best cells first
    deletion: FloatArray  # ``float64 [S + 1]``, score with that share hidden, the best cells first

    @property
    def insertion_area(self) -> float:
        """Normalised area under the insertion curve; high is good."""
        return _normalised_area(self.share, self.insertion, self.insertion[0], self.deletion[0])

    @property
    def deletion_area(self) -> float:
        """Normalised area under the deletion curve; low is good."""
        return _normalised_area(self.share, self.deletion, self.insertion[0], self.deletion[0])


def cell_ranks(heatmap: ArrayLike, seed: int = 0) -> NDArray[np.intp]:
    """Rank a heatmap's cells, the hottest first.

    Ties (all the zeros that the rectifier leaves) are drawn at random: in reading order they
    would favour the top of the image.

    Args:
        heatmap: ``[h, w]``, finite.

    Returns:
        ``intp [h, w]``, each of 0 .. h * w - 1 once; 0 is the hottest cell.
    """
    heat = as_heatmap(heatmap)
    lottery = np.random.default_rng(seed).permutation(heat.size)
    order = np.lexsort((lottery, -heat.ravel()))
    ranks = np.empty(heat.size, dtype=np.intp)
    ranks[order] = np.arange(heat.size)
    return ranks.reshape(heat.shape)


def insertion_deletion(
    score_fn: ScoreFunction,
    image: Images,
    blurred: Images,
    order: ArrayLike,
    steps: int | None = None,
    *,
    batch_size: int = 32,
) -> PerturbationCurves:
    """Score an image while the cells of a grid are shown, and hidden, in an order.

    Args:
        score_fn: takes images ``[B, ..., H, W]`` of the image's dtype, returns scores ``[B]``.
        image: ``[..., H, W]``, for instance ``float32 [3, H, W]`` preprocessed.
        order: ``int [h, w]``, the rank of each cell, 0 first, as :func:`cell_ranks` gives it; its
            shape is the grid (7 x 7, or any with h <= H and w <= W).
        steps: number of steps, about equal in cells; one cell a step by default, and never more
            steps than cells.
        batch_size: images per call of ``score_fn``.
    """
    if image.ndim < 2 or image.shape != blurred.shape:
        raise ValueError(
            f"image and blurred must share one shape [..., H, W], got {image.shape} and "
            f"{blurred.shape}"
        )
    ranks = _pixel_ranks(order, int(image.shape[-2]), int(image.shape[-1]))
    cells = int(ranks.max()) + 1
    steps = cells if steps is None else steps
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    changed = np.unique(np.rint(np.linspace(0, cells, min(steps, cells) + 1)).astype(np.intp))
    inner = changed[1:-1]

    low, high = _scores(score_fn, np.stack([blurred, image])).tolist()
    insertion = _inner_scores(score_fn, image, blurred, ranks, inner, batch_size)
    deletion = _inner_scores(score_fn, blurred, image, ranks, inner, batch_size)
    return PerturbationCurves(
        share=changed / cells,
        insertion=np.concatenate([[low], insertion, [high]]),
        deletion=np.concatenate([[high], deletion, [low]]),
    )


class CurvePool:
    """The curves of many images, stacked once for the many resamples of a bootstrap."""

    def __init__(self, curves: Sequence[PerturbationCurves]) -> None:
        if not curves:
            raise ValueError("no curves to pool")
        if any(not np.array_equal(c.share, curves[0].share) for c in curves):
            raise ValueError(
                "the curves have different steps; take them with one grid and one steps"
            )
        self._share = curves[0].share
        self._insertion = np.stack([c.insertion for c in curves])
        self._deletion = np.stack([c.deletion for c in curves])

    def areas(self, indices: NDArray[np.intp] | None = None) -> tuple[float, float]:
        """Normalised areas of the mean curves.

        The mean of ratios would be ruled by images whose whole range of scores is near
        zero; the ratio of means is not.

        Args:
            indices: ``int [M]`` images with repetition; all by default.

        Returns:
            ``(insertion, deletion)``; NaN where the images score no higher than blurred ones.
        """
        chosen = slice(None) if indices is None else indices
        pooled = PerturbationCurves(
            self._share,
            self._insertion[chosen].mean(axis=0),
            self._deletion[chosen].mean(axis=0),
        )
        return pooled.insertion_area, pooled.deletion_area


def _pixel_ranks(order: ArrayLike, height: int, width: int) -> NDArray[np.intp]:
    """The rank of every pixel's cell, ``intp [height, width]``."""
    ranks = np.asarray(order)
    if ranks.ndim != 2 or not np.array_equal(np.sort(ranks, axis=None), np.arange(ranks.size)):
        raise ValueError(
            "order must be [h, w] with each rank 0 .. h * w - 1 once; make it of a heatmap "
            "with cell_ranks(heatmap)"
        )
    h, w = ranks.shape
    if not (1 <= h <= height and 1 <= w <= width):
        raise ValueError(f"a grid of {h} x {w} cells does not fit an image of {height} x {width}")
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return np.asarray(ranks[rows[:, None], columns[None, :]], dtype=np.intp)


def _inner_scores(
    score_fn: ScoreFunction,
    first: Images,
    rest: Images,
    ranks: NDArray[np.intp],
    counts: NDArray[np.intp],
    batch_size: int,
) -> FloatArray:
    """Scores ``[len(counts)]`` of images with ``first`` in the first counts[i] cells."""
    scores = [np.empty(0)]
    for start in range(0, len(counts), batch_size):
        batch = counts[start : start + batch_size]
        masks = ranks < batch.reshape((-1,) + (1,) * first.ndim)  # [B, 1 .., H, W]
        scores.append(_scores(score_fn, np.where(masks, first, rest)))
    return np.concatenate(scores)


def _scores(score_fn: ScoreFunction, batch: Images) -> FloatArray:
    scores = np.asarray(score_fn(batch), dtype=np.float64)
    if scores.shape != (len(batch),):
        raise ValueError(
            f"score_fn must return one score per image, the shape ({len(batch)},), "
            f"got {scores.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("score_fn returned a score that is NaN or infinite")
    return scores


def _normalised_area(share: FloatArray, curve: FloatArray, low: float, high: float) -> float:
    """Area by the trapezoid rule, 0 at ``low`` and 1 at ``high``."""
    if high <= low:
        return float("nan")
    area = float((np.diff(share) * (curve[1:] + curve[:-1]) / 2.0).sum())
    return (area - float(low)) / (float(high) - float(low))


Cells = npt.NDArray[np.bool_]

# In units of the picture's longer side: of the blur, and of the mask's soft edge.
_BLUR = 1 / 10
_EDGE = 1 / 56


class CellBlur:
    """One picture, and the same picture blurred, to be mixed by cells.

    Args:
        image: `uint8 [H, W, 3]`, which the grid of cells covers.
        window: slices of rows and columns that hold the photograph, where the rest is padding.
            Only they are blurred, so that no padding runs into the photograph.
        whole: whether cells are hidden whole, with the soft edge outside of them; else the edge
            lies half on each side, and a lone cell keeps some of what it shows.
    """

    def __init__(
        self, image: Image, window: tuple[slice, slice] | None = None, *, whole: bool = False
    ) -> None:
        self._image = image
        self._whole = whole
        self._window = window or (slice(0, image.shape[0]), slice(0, image.shape[1]))
        part = image[self._window]
        self._side = max(part.shape[:2])
        self._sharp = part.astype(np.float32)
        smooth = cv2.GaussianBlur(part, (0, 0), _BLUR * self._side)
        self._away = np.asarray(smooth, np.float32) - self._sharp

    def __call__(self, cells: Cells) -> Image:
        """The picture with some cells blurred.

        Args:
            cells: `bool [h, w]`, a grid over the whole image.

        Returns:
            `uint8 [H, W, 3]`.
        """
        height, width = self._image.shape[:2]
        mask = cv2.resize(
            cells.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST
        )
        soft = np.asarray(cv2.GaussianBlur(mask[self._window], (0, 0), _EDGE * self._side))
        if self._whole:
            # Along a border the soft mask is one half.
            soft = np.minimum(2 * soft, 1)
        mixed = self._sharp + self._away * soft[..., None]
        result: Image = self._image.copy()
        result[self._window] = np.rint(mixed).astype(np.uint8)
        return result


def photograph_window(
    affine: Affine, frame_wh: tuple[int, int], input_wh: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of the network's input that show the photograph and no padding.

    Args:
        affine: from the preprocessing, input pixels -> pixels of the photograph.
    """
    left, top = -affine.offset_x / affine.scale_x, -affine.offset_y / affine.scale_y
    right, bottom = left + frame_wh[0] / affine.scale_x, top + frame_wh[1] / affine.scale_y
    return (
        slice(max(0, round(top)), min(input_wh[1], round(bottom))),
        slice(max(0, round(left)), min(input_wh[0], round(right))),
    )


def hottest(heat: npt.ArrayLike, share: float, seed: int = 0) -> Cells:
    """The greatest cells of a map, ties drawn at random.

    Args:
        heat: `[h, w]`, finite.
        share: of the cells, rounded to whole ones and at least one.

    Returns:
        `bool [h, w]`.
    """
    return first_cells(cell_ranks(heat, seed), share)


def first_cells(ranks: npt.NDArray[np.intp], share: float) -> Cells:
    """The first cells of a ranking `intp [h, w]`, as many as `hottest` takes."""
    return np.asarray(ranks < max(1, round(share * ranks.size)))
