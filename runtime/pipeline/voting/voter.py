"""From the results of a frame to results with votes: which ballot each region belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.voting.ballot import Ballot
from foldcam.runtime.sources.base import Frame

LEAST_OVERLAP = 0.3
"""Intersection over union from which a box continues the region of an earlier frame; the value
of SORT (Bewley et al. 2016)."""
MOST_REGIONS = 256
"""Regions that are remembered per source beside those of the present frame."""


@dataclass(eq=False)
class _Region:
    """One region: its latest box in shares of the frame's size, and its votes."""

    box: npt.NDArray[np.float64]
    ballot: Ballot


@dataclass(eq=False)
class _Stream:
    """One source: by which of its connections frames come, and its regions, latest last."""

    connection: int
    regions: list[_Region] = field(default_factory=list)


class Voter:
    """Gives every result of a sequence its `vote`; photographs stay as they are.

    A region keeps its votes from frame to frame where its box overlaps its earlier one, the pairs
    of largest overlap first. A whole frame, a given box and a cell of a grid always find their
    own. Sources share no votes, and a source that was opened again begins without any.
    """

    def __init__(self, seconds: float, stills: Sequence[bool], live: Sequence[bool]) -> None:
        self._seconds = seconds
        self._stills, self._live = tuple(stills), tuple(live)
        self._streams: dict[int, _Stream] = {}

    def voted(self, frame: Frame, results: Sequence[Result]) -> list[Result]:
        """The results of one frame, with votes; the frames of a source come in order."""
        if self._stills[frame.stream]:
            return list(results)
        stream = self._streams.get(frame.stream)
        if stream is None or stream.connection != frame.connection:
            stream = self._streams[frame.stream] = _Stream(frame.connection)
        now = frame.captured if self._live[frame.stream] else frame.timestamp
        present = self._regions_of(stream, results)
        voted = [
            replace(result, vote=region.ballot.add(now, frame.timestamp, result))
            for result, region in zip(results, present, strict=True)
        ]
        ours = set(present)
        absent = [each for each in stream.regions if each not in ours and each.ballot.awaits(now)]
        stream.regions = absent[-MOST_REGIONS:] + present
        return voted

    def _regions_of(self, stream: _Stream, results: Sequence[Result]) -> list[_Region]:
        boxes = np.array([_box(result) for result in results]).reshape(-1, 4)
        earlier = np.array([region.box for region in stream.regions]).reshape(-1, 4)
        matches = matched(boxes, earlier)
        found = []
        for number, box in enumerate(boxes):
            if number in matches:
                region = stream.regions[matches[number]]
                region.box = box
            else:
                region = _Region(box, Ballot(self._seconds))
            found.append(region)
        return found


def matched(boxes: npt.NDArray[np.float64], earlier: npt.NDArray[np.float64]) -> dict[int, int]:
    """Pairs of boxes that overlap by at least `LEAST_OVERLAP`, each box in one pair at most.

    Args:
        boxes, earlier: `float64 [n, 4]` and `[m, 4]` of x, y, width, height in one unit.

    Returns:
        The numbers of `earlier` by those of `boxes`, chosen greedily by overlap.
    """
    overlaps = overlap(boxes, earlier)
    mine, theirs = np.nonzero(overlaps >= LEAST_OVERLAP)
    order = np.argsort(-overlaps[mine, theirs], kind="stable")
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for box, other in zip(mine[order].tolist(), theirs[order].tolist(), strict=True):
        if box not in pairs and other not in taken:
            pairs[box] = other
            taken.add(other)
    return pairs


def overlap(
    boxes: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Intersection over union, `float64 [n, m]` in [0, 1]; 0 for boxes without area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(
        boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:]
    )
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = np.prod(boxes[:, None, 2:], axis=2) + np.prod(others[None, :, 2:], axis=2) - shared
    return np.asarray(shared / np.maximum(areas, np.finfo(np.float64).tiny))


def _box(result: Result) -> tuple[float, float, float, float]:
    # In shares of the frame, so that cells stay where they are if a stream changes its size.
    wide, high = (max(1, side) for side in result.frame_wh)
    x, y, width, height = result.box or (0, 0, wide, high)
    return x / wide, y / high, width / wide, height / high
