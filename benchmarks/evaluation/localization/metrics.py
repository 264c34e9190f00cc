"""Localization metrics: does a heatmap lie where the object is?

Boxes are half-open ``(x0, y0, x1, y1)`` float pixels of the image after resizing, sizes are
``(height, width)``; ``geometry`` says how cells, pixels and boxes meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foldcam.benchmarks.evaluation.localization.geometry import (
    FloatArray,
    Size,
    as_box,
    as_heatmap,
    as_size,
    coverage,
)


def heat_in_box(heatmap: ArrayLike, box: ArrayLike, image_size: Size) -> float:
    """Share of a heatmap's heat that lies inside a box.

    ``sum_ij heat_ij * covered_ij / sum_ij heat_ij``, where ``covered_ij`` is the share of cell
    (i, j) inside the box: heat is spread evenly over its cell, so no rounding of boxes to cells
    enters. ("Mean ratio" of arXiv 2001.06538; also the energy-based pointing game of Score-CAM.)
    Any sharpening of a map raises it: rest no choice on it alone.

    Args:
        heatmap: ``[h, w]``, not negative.
        box: ``(x0, y0, x1, y1)``, half-open pixels.
        image_size: ``(height, width)`` of the image the box is given in.

    Returns:
        A share in ``[0, 1]``; 0.0 for a map without heat.

    Example:
        >>> heat_in_box([[1.0, 3.0]], (5, 0, 10, 10), (10, 10))
        0.75
    """
    heat = _not_negative(as_heatmap(heatmap))
    return _share(heat, coverage(as_box(box), as_size(image_size), _shape(heat)))


def pointing(heatmap: ArrayLike, box: ArrayLike, image_size: Size) -> float:
    """The pointing game: does the maximum lie in the box? (Zhang et al., ECCV 2016, no margin.)

    The centre of the maximal cell must lie in the half-open box. Where several cells share the
    maximum, the answer is the share of them inside: the chance of a hit when one is drawn.

    Args:
        heatmap: ``[h, w]``.
        box: ``(x0, y0, x1, y1)``, half-open pixels.
        image_size: ``(height, width)`` of the image the box is given in.

    Returns:
        1.0 or 0.0, or a share between them for ties. 0.0 for a map that is nowhere positive:
        it points nowhere.
    """
    heat = as_heatmap(heatmap)
    x0, y0, x1, y1 = as_box(box).tolist()
    height, width = as_size(image_size)
    if heat.max() <= 0.0:
        return 0.0
    rows, columns = np.nonzero(heat == heat.max())
    y = (rows + 0.5) * height / heat.shape[0]
    x = (columns + 0.5) * width / heat.shape[1]
    return float(np.mean((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)))


def grid_pointing(heatmap: ArrayLike, rows: int, columns: int, cell_index: int) -> float:
    """The grid pointing game: share of heat in the cell of the image that was asked for.

    Several images lie in one grid; the map answers for one of them (Böhle et al., CVPR 2021;
    Rao et al., CVPR 2022). A map that asks nothing scores ``1 / (rows * columns)`` on average.
    A heatmap's cells may straddle the grid's lines: they are split by area.

    Args:
        heatmap: ``[h, w]`` of the whole grid, not negative.
        rows: rows of the grid, at least 1.
        columns: columns of the grid, at least 1.

    Returns:
        A share in ``[0, 1]``; 0.0 for a map without heat.
    """
    heat = _not_negative(as_heatmap(heatmap))
    if rows < 1 or columns < 1:
        raise ValueError(f"a grid has at least one row and one column, got {rows} x {columns}")
    if not 0 <= cell_index < rows * columns:
        raise ValueError(
            f"cell_index must be 0 to {rows * columns - 1} in a {rows} x {columns} grid, "
            f"got {cell_index}"
        )
    row, column = divmod(cell_index, columns)
    box = np.array([column, row, column + 1, row + 1], dtype=np.float64)
    return _share(heat, coverage(box, (rows, columns), _shape(heat)))


def centred_blob(h: int, w: int, sigma: float = 0.25) -> FloatArray:
    """The centre-Gaussian baseline of Choe et al. (CVPR 2020): a map that never saw the image.

    ``exp(-(x^2 + y^2) / (2 sigma^2))``, with x and y from the image's centre in units of its
    width and height, so that it is isotropic on the square map the metrics resize to. Swept
    thresholds and rankings do not depend on sigma (every sigma is a monotone transformation of
    every other, up to 8-bit rounding and the resizing of a coarse map); the share of heat does.

    Args:
        h: rows, at least 1.
        w: columns, at least 1.
        sigma: standard deviation as a share of the side; the reference names none.

    Returns:
        ``float64 [h, w]`` in ``(0, 1]``, with the maximum exactly 1.
    """
    if h < 1 or w < 1 or not sigma > 0.0:
        raise ValueError(f"expected h, w >= 1 and sigma > 0, got h={h}, w={w}, sigma={sigma}")
    y = (np.arange(h) + 0.5) / h - 0.5
    x = (np.arange(w) + 0.5) / w - 0.5
    # The nearest cell's distance is taken off first: the maximum is then exp(0), whatever sigma.
    squared = y[:, None] ** 2 + x[None, :] ** 2
    blob: FloatArray = np.exp((squared.min() - squared) / (2.0 * sigma**2))
    return blob


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's, ties sharing their mean rank; 0 where one side is constant and orders nothing."""
    from scipy.stats import rankdata

    ours, theirs = (rankdata(values, axis=None) for values in (a, b))
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    norm = np.sqrt((ours @ ours) * (theirs @ theirs))
    return float(ours @ theirs / norm) if norm > 0 else 0.0


def _share(heat: FloatArray, covered: FloatArray) -> float:
    """Share of the heat that is covered; 0.0 where there is none."""
    peak = float(heat.max())
    if peak == 0.0:
        return 0.0
    scaled = heat / peak  # keeps the sums away from underflow and overflow
    return float((scaled * covered).sum() / scaled.sum())


def _not_negative(heat: FloatArray) -> FloatArray:
    if heat.min() < 0.0:
        raise ValueError(
            f"a share of heat needs a map without negative values, got {heat.min()}; "
            "rectify it first: np.maximum(heatmap, 0)"
        )
    return heat


def _shape(heat: FloatArray) -> Size:
    return int(heat.shape[0]), int(heat.shape[1])
