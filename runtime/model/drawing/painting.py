"""Heatmaps of regions back on the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.runtime.model.drawing.maps import maps_of
from foldcam.runtime.model.drawing.overlay import Heat, heatmap_on_frame
from foldcam.runtime.model.drawing.shown import Shown
from foldcam.runtime.model.drawing.style import MapName


def painted_maps(
    results: Sequence[Shown], name: MapName, shape: tuple[int, int]
) -> tuple[Heat, Heat | None]:
    """A map of every result on one frame; where regions overlap, the hotter one's.

    Args:
        results: may be none, and then the frame is cold.
        shape: `(H, W)` of the frame.

    Returns:
        Two maps `float32 [H, W]` in [0, 1], see `runtime.drawing.maps.maps_of`.
    """
    pairs = [maps_of(result, name) for result in results]
    lower = [cold for _, cold in pairs if cold is not None]
    signed = name != "heatmap" or bool(lower)
    heat = _hottest_of([warm for warm, _ in pairs], results, shape)
    return heat, _hottest_of(lower, results, shape) if signed else None


def _hottest_of(heatmaps: Sequence[Heat], results: Sequence[Shown], shape: tuple[int, int]) -> Heat:
    hottest = np.zeros(shape, np.float32)
    for heatmap, result in zip(heatmaps, results, strict=True):
        place, part = _painted(heatmap, result)
        if len(results) == 1 and part.shape == shape:
            return part  # nothing to compare it with
        np.maximum(hottest[place], part, out=hottest[place])
    return hottest


def _painted(heatmap: Heat, result: Shown) -> tuple[tuple[slice, slice], Heat]:
    """The rows and columns of the frame that the network was shown, and its heat there."""
    # On the region alone: a letterbox's padding has heat as well, and lies beside it.
    x, y, width, height = result.box or (0, 0, *result.frame_wh)
    within = result.affine.shifted(-x, -y)
    part = heatmap_on_frame(heatmap, within, result.input_wh, (width, height))
    return np.s_[y : y + height, x : x + width], part
