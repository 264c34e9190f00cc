"""The protocol of whatever finds regions, and the checks on what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import Box
from foldcam.runtime.system.errors import FoldcamError


class Finder(Protocol):
    """`frame -> boxes`, the whole protocol; a function will do."""

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """Find the regions of a frame.

        Returns:
            `[n, 4]` of `x, y, width, height` in the frame's pixels, which need not be whole
            or inside; n may be 0.
        """
        ...


class Regions:
    """Boxes that can be cut out of a frame, from any finder.

    They are rounded to whole pixels and clipped to the frame; those of which nothing is
    left are dropped and counted.

    Args:
        find: finds them.
        name: of the finder, for the messages.
        usual: boxes per frame to expect, which decides the size of batches.
    """

    def __init__(self, find: Finder, name: str, usual: int) -> None:
        self._find = find
        self._name = name
        self.usual = max(1, usual)
        self.empty = 0
        """Boxes that were dropped."""

    def __call__(self, frame: Frame) -> list[Box]:
        """The boxes of a frame, as `(x, y, width, height)` within it.

        Raises:
            FoldcamError: the finder failed, or returned something other than boxes.
        """
        height, width = frame.image.shape[:2]
        found = checked(self._find(frame), self._name)
        boxes = clipped(found, width, height)
        self.empty += len(found) - len(boxes)
        return boxes


def checked(boxes: Any, name: str) -> npt.NDArray[np.float64]:
    """What a finder returned as `float64 [n, 4]`."""
    try:
        array = np.asarray([] if boxes is None else boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise FoldcamError(
            f"{name} returned {type(boxes).__name__} that is no array of numbers: return boxes "
            "[n, 4] of x, y, width, height."
        ) from error
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise FoldcamError(
            f"{name} returned an array of shape {list(array.shape)}: return boxes [n, 4] of x, y, "
            "width, height."
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise FoldcamError(f"{name} returned a number that is not finite in box {row}.")
    return array


def clipped(
    boxes: Sequence[Sequence[float]] | npt.NDArray[Any], width: int, height: int
) -> list[Box]:
    """Boxes in whole pixels inside of a frame; those without area are left out.

    Args:
        boxes: `[n, 4]` of x, y, width, height, finite.
        width, height: of the frame in pixels.
    """
    kept: list[Box] = []
    for x, y, across, down in boxes:
        left, right = (min(max(round(edge), 0), width) for edge in (float(x), float(x + across)))
        top, bottom = (min(max(round(edge), 0), height) for edge in (float(y), float(y + down)))
        if right > left and bottom > top:
            kept.append((left, top, right - left, bottom - top))
    return kept
