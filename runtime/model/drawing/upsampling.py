"""A heatmap's cells at the size of a frame: smooth, without squares, and none of it lost.

Along each axis a cell is a box, blurred twice by a box of two thirds of its width (so a spline of
degree 2, see Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal
Processing Magazine 16(6), 1999), integrated over each pixel and mirrored at the map's border. So

- no weight is negative, and the weights of a pixel add up to 1: values stay in the map's range,
  a constant map stays constant, and what rises from cell to cell rises from pixel to pixel;
- the weights of a cell add up to the pixels that it covers: the sum is kept, at any size;
- the slope is continuous. Bilinear interpolation has kinks at the centres of cells, which the eye
  sees as stars, and flat strips of half a cell along the border.

Smooth weights that are never negative and reach each cell's own value have no slope at its
centre, which looks like tiles. The width of the blur is between that (a half) and the B-spline
(1): a single hot cell keeps 7/8 of its heat at its centre, where the B-spline leaves 9/16, and
the hottest cell stays the hottest place unless another has nearly as much.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.float32]
_BLUR = 2.0 / 3.0  # cells
# Where the second derivative of a cell's weight changes, from its centre, and by how much.
_KNOTS = [
    (box + blur, sign * count)
    for box, sign in ((-0.5, 1.0), (0.5, -1.0))
    for blur, count in ((-_BLUR, 1.0), (0.0, -2.0), (_BLUR, 1.0))
]


@lru_cache(maxsize=16)
def axis_weights(pixels: int, cells: int, scale: float, offset: float, inputs: int) -> Cells:
    """Weights that take a row of cells to a row of the frame's pixels.

    Args:
        scale, offset: `frame = scale * input + offset`, as in `Affine`.
        inputs: pixels of the network's input.

    Returns:
        `float32 [pixels, cells]`, read-only; zero for pixels that the network did not see.
    """
    within = (np.arange(pixels + 1) - offset) / scale  # edges of the pixels, on the input
    edges = within * cells / inputs
    # The cell before the first and the one after the last are the mirror images of these two.
    centres = np.arange(-1, cells + 1) + 0.5
    weights = np.diff(_integral(edges[:, None] - centres), axis=0) / np.diff(edges)[:, None]
    weights[:, 1] += weights[:, 0]
    weights[:, -2] += weights[:, -1]
    # A hair's width of tolerance: the crop's edges are whole pixels up to rounding.
    middle = (within[:-1] + within[1:]) / 2
    weights[(middle < -1e-6) | (middle > inputs + 1e-6)] = 0.0
    matrix: Cells = np.ascontiguousarray(weights[:, 1:-1], np.float32)
    matrix.flags.writeable = False
    return matrix


def _integral(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of a cell's weight from its left end to `x`, which is in cells from its centre."""
    reach = 0.5 + _BLUR
    x = np.clip(x, -reach, reach)
    total = np.zeros_like(x)
    for knot, change in _KNOTS:
        past = np.maximum(x - knot, 0.0)
        total += change * past * past * past  # a power of 3 takes ten times as long
    return total / (6.0 * _BLUR**2)
