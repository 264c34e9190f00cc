"""How results are drawn into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from foldcam.runtime.system.documents import Share
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.key import key

Colormap = Literal["turbo", "inferno", "viridis", "jet"]
COLORMAP_NAMES: tuple[Colormap, ...] = get_args(Colormap)
Mark = Literal["none", "contour", "box"]
MARKS: tuple[Mark, ...] = get_args(Mark)
MapName = Literal["heatmap", "contribution", "contrast"]
MAP_NAMES: tuple[MapName, ...] = get_args(MapName)


@dataclass(frozen=True)
class Style:
    """How results are drawn into a frame."""

    opacity: Share = key(
        0.6, "Sets the opacity of the hottest place of the heatmap, 0 to 1.", "--opacity"
    )
    colormap: Colormap = key("turbo", "Sets the colors of the heatmap.", "--colormap")
    threshold: Share = key(0.0, "Does not paint heat below this value, 0 to 1.", "--threshold")
    mark: Mark = key("none", "Chooses what is drawn around the hottest region.", "--mark")
    boxes: bool = key(True, "Draws the regions' boxes and labels.", "--draw-boxes/--no-draw-boxes")
    caption: bool = key(
        True, "Writes the answer along the bottom of the picture.", "--caption/--no-caption"
    )
    map: MapName = key(
        "heatmap",
        "Chooses the map that is drawn: heatmap shows what speaks for the answer; contribution "
        "also shows what speaks against it, in a second color; contrast shows what speaks for "
        "the nearest label and not the runner-up's.",
        "--map",
    )
    beside: bool = key(
        False,
        "Draws beside the frame the bank's picture that it was matched to, with its own heat; "
        "needs a gallery (foldcam gallery).",
        "--beside/--no-beside",
    )

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
    """Refuse a name that an option does not know."""
    if name not in known:
        raise FoldcamError(f"{option} is {name!r}: use one of {', '.join(known)}.")
