"""How results are drawn into a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Colormap = Literal["turbo", "inferno", "viridis", "jet"]
COLORMAP_NAMES: tuple[Colormap, ...] = get_args(Colormap)
Mark = Literal["none", "contour", "box"]
MapName = Literal["heatmap", "contribution", "contrast"]


@dataclass(frozen=True)
class Style:
    """How results are drawn into a frame.

    Attributes:
        opacity: the opacity of the hottest place, in [0, 1].
        colormap: the colormap of the heat; a signed map and a continuous outcome have two
            colours of their own.
        threshold: heat below it, in [0, 1], is not painted.
        mark: what is drawn around the hottest region: nothing, its contour or its box.
        boxes: whether the regions that the network was shown have their boxes and labels.
        caption: whether the answer is written along the bottom.
        beside: whether the bank's picture that the frame was matched to is drawn beside it, with
            its own heat; needs a gallery.
        map: which map is drawn. `heatmap` is what speaks for the answer. The others are signed,
            and show what speaks against it in a second colour: `contribution`, and `contrast`,
            which is for the nearest label and not the runner-up's.
    """

    opacity: float = 0.6
    colormap: Colormap = "turbo"
    threshold: float = 0.0
    mark: Mark = "none"
    boxes: bool = True
    caption: bool = True
    beside: bool = False
    map: MapName = "heatmap"
