"""Heatmaps of regions back on the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.runtime.drawing.maps import maps_of
from foldcam.runtime.drawing.overlay import Heat, heatmap_on_frame
from foldcam.runtime.drawing.shown import Shown
from foldcam.runtime.drawing.style import MapName


def painted_on_frame(heatmap: Heat, result: Shown) -> Heat:
    """Paint a heatmap of a result where the network saw it; the rest of the frame is cold.

    Args:
        heatmap: `float32 [h', w']`, such as `result.heatmap`.
        result: says where on the frame it belongs.

    Returns:
        `float32 [H, W]` of the frame, with the heatmap's range of values.
    """
    if result.box is None:
        return heatmap_on_frame(heatmap, result.affine, result.input_wh, result.frame_wh)
    # On the region alone: a letterbox's padding has heat as well, and lies beside it.
    x, y, width, height = result.box
    within = result.affine.shifted(-x, -y)
    frame = np.zeros((result.frame_wh[1], result.frame_wh[0]), np.float32)
    frame[y : y + height, x : x + width] = heatmap_on_frame(
        heatmap, within, result.input_wh, (width, height)
    )
    return frame


def painted_maps(
    results: Sequence[Shown], name: MapName, shape: tuple[int, int]
) -> tuple[Heat, Heat | None]:
    """A map of every result on one frame; where regions overlap, the hotter one's.

    Args:
        results: may be none, and then the frame is cold.
        name: which of their maps.
        shape: `(H, W)` of the frame.

    Returns:
        Two maps `float32 [H, W]` in [0, 1], see `runtime.drawing.maps.maps_of`.

    Raises:
        FoldcamError: the model does not have the map.
    """
    pairs = [maps_of(result, name) for result in results]
    lower = [cold for _, cold in pairs if cold is not None]
    signed = name != "heatmap" or bool(lower)
    heat = _hottest_of([warm for warm, _ in pairs], results, shape)
    return heat, _hottest_of(lower, results, shape) if signed else None


def _hottest_of(heatmaps: Sequence[Heat], results: Sequence[Shown], shape: tuple[int, int]) -> Heat:
    hottest = np.zeros(shape, np.float32)
    for number, (heatmap, result) in enumerate(zip(heatmaps, results, strict=True)):
        painted = painted_on_frame(heatmap, result)
        hottest = painted if number == 0 else np.maximum(hottest, painted, out=hottest)
    return hottest
