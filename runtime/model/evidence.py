"""How much a map's contributions say for an answer and against it, in all and within a box.

Coordinates are continuous pixels as in `runtime.images.preprocess`: a cell of a map covers a
rectangle of the frame, and what it contributes is spread evenly over that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Share:
    """How much of a map's evidence lies in a box.

    Attributes:
        evidence_for: share of the sum of its positive contributions, in [0, 1]; None where
            there are none.
        evidence_against: the same of its negative contributions; None where there are none, or
            where the map has no negative part.
    """

    evidence_for: float | None
    evidence_against: float | None


@dataclass(frozen=True)
class Place:
    """Where on a frame a map lies.

    Attributes:
        affine: maps pixels of the network's input, which the map covers, to pixels of the frame.
        input_wh: width and height of the network's input.
        shown: the part `(x, y, width, height)` of the frame that the network was shown. What
            lies beside it is padding, and in no box.
    """

    affine: Affine
    input_wh: tuple[int, int]
    shown: tuple[int, int, int, int]

    def overlap(self, box: Sequence[float], cells: tuple[int, int]) -> Doubles:
        """`float64 [h', w']` in [0, 1]: how much of each cell's area lies in a box.

        Args:
            box: `(x, y, width, height)` in pixels of the frame; need not be whole or inside.
            cells: `(h', w')`.

        Raises:
            FoldcamError: the box is not four finite numbers, or has no area.
        """
        x, y, width, height = _checked(box)
        left, top, across, down = self.shown
        columns = _covered(
            cells[1], self.affine.scale_x * self.input_wh[0] / cells[1], self.affine.offset_x,
            max(x, left), min(x + width, left + across),
        )  # fmt: skip
        rows = _covered(
            cells[0], self.affine.scale_y * self.input_wh[1] / cells[0], self.affine.offset_y,
            max(y, top), min(y + height, top + down),
        )  # fmt: skip
        return np.asarray(rows[:, None] * columns[None], np.float64)


def total(contribution: Floats) -> float:
    """The sum of the positive contributions of a map `float32 [h', w']`."""
    return float(np.maximum(contribution.astype(np.float64), 0.0).sum())


def share_within(contribution: Floats, overlap: Doubles) -> Share:
    """The shares of a map's positive and of its negative part; None where a part is empty.

    Args:
        contribution: `float32 [h', w']`, signed. A value that is not finite leaves both shares
            unknown.
        overlap: `[h', w']`, see `Place.overlap`.
    """
    wide = contribution.astype(np.float64)
    if not np.isfinite(wide).all():
        return Share(None, None)
    return Share(*(_share(np.maximum(part, 0.0), overlap) for part in (wide, -wide)))


def _share(part: Doubles, overlap: Doubles) -> float | None:
    total = float(part.sum())
    return min(1.0, float((part * overlap).sum()) / total) if total > 0.0 else None


def _covered(cells: int, size: float, offset: float, low: float, high: float) -> Doubles:
    """`[cells]`: the share of each cell that lies between two places of the frame."""
    edges = offset + size * np.arange(cells + 1)
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.asarray(np.clip(inside / size, 0.0, 1.0), np.float64)


def _checked(box: Sequence[float]) -> tuple[float, float, float, float]:
    values = np.asarray(box, np.float64)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise FoldcamError(f"The box {box!r} is not x, y, width and height in pixels.")
    x, y, width, height = values.tolist()
    if min(width, height) <= 0.0:
        raise FoldcamError(f"The box {box!r} has no area.")
    return x, y, width, height
