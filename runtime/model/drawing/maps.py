"""Which map of a result is shown: what is warm in the picture, and what is cold."""

from __future__ import annotations

import numpy as np

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.drawing.overlay import Heat
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
