"""The columns of a CSV that give a box, and the box of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foldcam.export.datasets.samples import Box
from foldcam.runtime.system.errors import FoldcamError

_KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
BOX_COLUMNS = "x,y,w,h or x,y,width,height or xmin,ymin,xmax,ymax or x1,y1,x2,y2"
USED = frozenset(name for kind in _KINDS for name in kind)


@dataclass(frozen=True)
class BoxColumns:
    """How a file gives boxes.

    Attributes:
        corners: whether the last two are the right and lower edge, not width and height.
    """

    names: tuple[str, str, str, str]
    corners: bool

    @property
    def text(self) -> str:
        """`x,y,w,h`."""
        return ",".join(self.names)

    def box(self, row: Mapping[str, str | None], where: str) -> Box | None:
        """The box of a row, None where all four cells are empty.

        Raises:
            FoldcamError: not four numbers, or a box of no area.
        """
        cells = [(row.get(name) or "").strip() for name in self.names]
        if not any(cells):
            return None
        try:
            x, y, right, lower = (float(cell) for cell in cells)
            if not all(map(math.isfinite, (x, y, right, lower))):
                raise ValueError
        except ValueError:
            raise FoldcamError(
                f"{where}: {self.text} are not four numbers ({', '.join(cells)})."
            ) from None
        width, height = (right - x, lower - y) if self.corners else (right, lower)
        if not (width > 0 and height > 0):
            raise FoldcamError(
                f"{where}: the box {self.text} = {','.join(cells)} has no area: "
                + (
                    "its right edge must lie right of its left one and its lower edge below its "
                    "upper one."
                    if self.corners
                    else "width and height must be above zero."
                )
            )
        if max(abs(x), abs(y), width, height) > 1e9:
            raise FoldcamError(f"{where}: the box {','.join(cells)} is larger than any picture.")
        return Box(x, y, width, height)


def box_columns(names: Sequence[str], where: str) -> BoxColumns | None:
    """Which columns of a header give a box; None if it has none."""
    there = set(names)
    found = [kind for kind in _KINDS if there >= set(kind)]
    if len(found) > 1:
        raise FoldcamError(
            f"{where}: its columns give boxes in two ways ({' and '.join(map(','.join, found))}): "
            "keep one of them."
        )
    if found:
        return BoxColumns(found[0], corners=found[0][2] in ("xmax", "x2"))
    # `width` and `height` alone are the picture's own size in many exports.
    begun = sorted(there & USED - {"width", "height", "w", "h"})
    if begun:
        raise FoldcamError(
            f"{where}: its columns {','.join(begun)} are a part of a box: a box needs the columns "
            f"{BOX_COLUMNS}."
        )
    return None


def crop_of(box: Box, where: str) -> Box:
    """A box in whole pixels."""
    left, top = round(box.x), round(box.y)
    width, height = round(box.x + box.width) - left, round(box.y + box.height) - top
    if width < 1 or height < 1:
        raise FoldcamError(
            f"{where}: the box {box.x:g},{box.y:g} of {box.width:g} x {box.height:g} is smaller "
            "than a pixel: boxes are given in pixels of the picture, not as fractions of it."
        )
    return Box(left, top, width, height)
