"""How results are drawn into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from foldcam.runtime.errors import FoldcamError

Colormap = Literal["turbo", "inferno", "viridis", "jet"]
COLORMAP_NAMES: tuple[Colormap, ...] = get_args(Colormap)
Mark = Literal["none", "contour", "box"]
MARKS: tuple[Mark, ...] = get_args(Mark)
MapName = Literal["heatmap", "contribution", "contrast"]
MAP_NAMES: tuple[MapName, ...] = get_args(MapName)


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
        caption: whether the answer is written on a strip below.
        map: which map is drawn. `heatmap` is what speaks for the answer. The others are signed,
            and show what speaks against it in a second colour: `contribution`, and `contrast`,
            which is for the nearest label and not the runner-up's.
        beside: whether the bank's picture that the frame was matched to is drawn beside it, with
            its own heat; needs a gallery.
    """

    opacity: float = 0.6
    colormap: Colormap = "turbo"
    threshold: float = 0.0
    mark: Mark = "none"
    boxes: bool = True
    caption: bool = True
    map: MapName = "heatmap"
    beside: bool = False

    def check(self) -> None:
        """Refuse what callers in Python may get wrong; command line and configuration cannot.

        Raises:
            FoldcamError: an unknown name, or a number outside [0, 1].
        """
        check_name("map", self.map, MAP_NAMES)
        check_name("mark", self.mark, MARKS)
        check_name("colormap", self.colormap, COLORMAP_NAMES)
        for name, value in (("opacity", self.opacity), ("threshold", self.threshold)):
            if not 0.0 <= value <= 1.0:
                raise FoldcamError(f"{name} is {value}: give a number from 0 to 1.")


def check_name(option: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name that an option does not know.

    Raises:
        FoldcamError: it is none of `known`.
    """
    if name not in known:
        raise FoldcamError(f"{option} is {name!r}: use one of {', '.join(known)}.")
