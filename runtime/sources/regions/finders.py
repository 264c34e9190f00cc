"""The finders that foldcam brings: the same boxes for every frame, and a grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import Box


class FixedBoxes:
    """The same boxes on every frame."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = np.asarray(boxes, np.float64).reshape(-1, 4)

    def __call__(self, frame: Frame, /) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """The boxes."""
        return self._boxes


class Grid:
    """Equal cells that cover the frame, row by row; they meet at whole pixels."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def __call__(self, frame: Frame, /) -> npt.NDArray[np.float64]:
        """The cells."""
        height, width = frame.image.shape[:2]
        across = np.rint(np.linspace(0, width, self._columns + 1))
        down = np.rint(np.linspace(0, height, self._rows + 1))
        return np.array(
            [
                (left, top, right - left, bottom - top)
                for top, bottom in itertools.pairwise(down)
                for left, right in itertools.pairwise(across)
            ]
        )
