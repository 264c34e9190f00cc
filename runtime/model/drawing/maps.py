"""Which map of a result is shown, what is warm in it and what cold, and both back on the frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.drawing.overlay import Heat, heatmap_on_frame
from foldcam.runtime.model.drawing.shown import Shown
from foldcam.runtime.model.drawing.style import MapName
from foldcam.runtime.system.errors import FoldcamError

_TINY = 1e-12


def maps_of(result: Shown, name: MapName) -> tuple[Heat, Heat | None]:
    """What speaks for an answer and against it, as shares of one maximum.

    Returns:
        Two maps `float32 [h', w']` in [0, 1]. The second is None for the heatmap of a model of
        labels, which shows only what speaks for the label; for a continuous outcome it is what
        lowers the estimate.
    """
    if name == "heatmap":
        return result.heatmap, result.heatmap_lower
    signed = result.contribution if name == "contribution" else result.contrast
    if signed is None:
        raise FoldcamError(_missing("The result", name))
    return halves(signed)


def halves(signed: Heat) -> tuple[Heat, Heat]:
    """The positive part of a map and the magnitude of the negative one, as shares of one maximum.

    Args:
        signed: `float32 [h', w']`.
    """
    scaled = signed / np.maximum(np.abs(signed).max(), np.float32(_TINY))
    return np.maximum(scaled, 0.0), np.maximum(-scaled, 0.0)


def check_map(name: MapName, contract: Contract) -> None:
    """Refuse to draw a map that the model does not have, before it runs."""
    if name != "heatmap" and name not in contract.optional_outputs:
        raise FoldcamError(_missing("The model", name))


def _missing(what: str, name: MapName) -> str:
    how = " with --contrast" if name == "contrast" else ""
    return f"{what} has no map {name!r}: export the model again{how}, or show its heatmap."


def painted_maps(
    results: Sequence[Shown], name: MapName, shape: tuple[int, int]
) -> tuple[Heat, Heat | None]:
    """A map of every result on one frame; where regions overlap, the hotter one's.

    Returns:
        Two maps `float32 [H, W]` in [0, 1], see `runtime.model.drawing.maps.maps_of`.
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
