"""Where the cells of a heatmap lie on its image, and whether its heat lies where the object is.

Every localization metric asks the same two questions: which part of a heatmap's cell lies in a
box, and what is the heatmap's value at a pixel. Both are answered here, once, exactly.

Boxes are ``(x0, y0, x1, y1)`` in float pixels of the image after resizing, half-open: x1 and y1
are the first coordinates *outside*, so a box of one pixel is ``(3, 4, 4, 5)`` and its area is 1.
Image sizes are ``(height, width)``, the order of an array's shape. A heatmap ``[h, w]`` always
spans the whole image: cell ``(i, j)`` is the rectangle of rows ``i*H/h .. (i+1)*H/h`` and columns
``j*W/w .. (j+1)*W/w``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Size = tuple[int, int]


def as_heatmap(heatmap: ArrayLike) -> FloatArray:
    """Return one heatmap as ``float64 [h, w]``."""
    array = np.asarray(heatmap, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a heatmap has the shape [h, w] with h, w >= 1, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("the heatmap holds NaN or infinity; a map without heat is all zeros")
    return array


def as_heatmaps(heatmaps: ArrayLike) -> FloatArray:
    """Return heatmaps as ``float64 [N, h, w]``."""
    array = np.asarray(heatmaps, dtype=np.float64)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"heatmaps have the shape [N, h, w] with N, h, w >= 1, got {array.shape}"
            + ("; drop the channel axis with heatmaps[:, 0]" if array.ndim == 4 else "")
        )
    if not np.isfinite(array).all():
        raise ValueError("the heatmaps hold NaN or infinity; a map without heat is all zeros")
    return array


def as_boxes(boxes: ArrayLike, count: int) -> FloatArray:
    """Return boxes as ``float64 [count, 4]``, each with ``x0 < x1`` and ``y0 < y1``.

    A box may reach beyond the image, or lie outside it: what is outside holds no heat.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.shape != (count, 4):
        raise ValueError(
            f"expected one box (x0, y0, x1, y1) per heatmap, so the shape ({count}, 4), "
            f"got {array.shape}"
        )
    proper = (
        np.isfinite(array).all(axis=1) & (array[:, 0] < array[:, 2]) & (array[:, 1] < array[:, 3])
    )
    if not proper.all():
        first = int(np.argmin(proper))
        raise ValueError(
            f"box {first} is {tuple(array[first].tolist())}, but boxes are half-open "
            "(x0, y0, x1, y1) with x0 < x1 and y0 < y1; where the corners are inclusive, "
            "add 1 to x1 and y1"
        )
    return array


def as_box(box: ArrayLike) -> FloatArray:
    """Return one box as ``float64 [4]``; raises as :func:`as_boxes` does."""
    array = np.asarray(box, dtype=np.float64)
    if array.shape != (4,):
        raise ValueError(f"a box is (x0, y0, x1, y1), got the shape {array.shape}")
    checked: FloatArray = as_boxes(array[None], 1)[0]
    return checked


def as_size(image_size: Size) -> Size:
    """Return ``(height, width)``."""
    height, width = image_size
    if height < 1 or width < 1:
        raise ValueError(f"an image size is (height, width), both positive, got {image_size}")
    return int(height), int(width)


def coverage(box: FloatArray, image_size: Size, shape: Size) -> FloatArray:
    """Share of each cell of a map that a box covers, exactly.

    Args:
        box: ``float64 [4]``, see the module's convention.
        image_size: ``(height, width)`` of the image the box is given in.
        shape: ``(h, w)`` of the map.

    Returns:
        ``float64 [h, w]`` in ``[0, 1]``. Its mean is the share of the image inside the box.
    """
    x0, y0, x1, y1 = box.tolist()
    height, width = image_size
    rows = _overlap(y0 * shape[0] / height, y1 * shape[0] / height, shape[0])
    columns = _overlap(x0 * shape[1] / width, x1 * shape[1] / width, shape[1])
    covered: FloatArray = np.outer(rows, columns)
    return covered


def _overlap(start: float, stop: float, count: int) -> FloatArray:
    """Length of ``[i, i + 1) ∩ [start, stop)`` for every i below count, ``float64 [count]``."""
    cells = np.arange(count, dtype=np.float64)
    length = np.minimum(cells + 1.0, stop) - np.maximum(cells, start)
    return np.asarray(np.clip(length, 0.0, 1.0))


def resize_bilinear(heatmap: FloatArray, shape: Size) -> FloatArray:
    """Resize a map bilinearly, half-pixel centres, edges repeated (OpenCV's ``INTER_LINEAR``).

    Written as ``a + (b - a) * t`` so that a plateau stays a plateau to the last bit. OpenCV
    weighs ``a * (1 - t) + b * t``, whose rounding gives a flat region a random order, and
    rankings see it.

    Args:
        heatmap: ``float64 [h, w]``.
        shape: the wanted ``(height, width)``.

    Returns:
        ``float64 [height, width]``, within the range of the input.
    """
    if heatmap.shape == shape:
        return heatmap
    below, above, share = _taps(heatmap.shape[0], shape[0])
    tall = heatmap[below] + (heatmap[above] - heatmap[below]) * share[:, None]
    left, right, share = _taps(heatmap.shape[1], shape[1])
    wide = tall[:, left] + (tall[:, right] - tall[:, left]) * share[None, :]
    resized: FloatArray = np.clip(wide, heatmap.min(), heatmap.max())
    return resized


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """The two source cells of every target cell, and the weight of the second."""
    position = (np.arange(target, dtype=np.float64) + 0.5) * source / target - 0.5
    position = np.clip(position, 0.0, source - 1.0)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, source - 1), position - low


def unit_range(heatmap: FloatArray) -> FloatArray:
    """Scale a map to ``[0, 1]`` by its own minimum and maximum; a flat map becomes zeros.

    This is ``normalize_scoremap`` of clovaai/wsolevaluation (Choe et al., CVPR 2020): a map is
    judged by what it sets apart, so one that sets nothing apart has no heat anywhere.
    """
    low, high = float(heatmap.min()), float(heatmap.max())
    if low == high:
        return np.zeros_like(heatmap)
    return (heatmap - low) / (high - low)


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
