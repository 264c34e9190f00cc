"""From the results of a frame to results with votes: which ballot each region belongs to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from foldcam.runtime.model.result import Result
from foldcam.runtime.model.vote import Vote
from foldcam.runtime.sources.base import Frame

LEAST_OVERLAP = 0.3
"""Intersection over union from which a box continues the region of an earlier frame; the value
of SORT (Bewley et al. 2016)."""
MOST_REGIONS = 256
"""Regions that are remembered per source beside those of the present frame."""
MARGIN = 0.2
"""By how much of all votes another label must lead before it replaces the present one; chosen by
`foldcam.benchmarks.studies.voting`, on clips that are not in its table. Weighting votes by their
similarity, its square or the margin to the next label was measured too, and changed nothing."""
MOST_VOTES = 4096
"""Votes that are kept at most, where a source's times stand still or the window is long."""

Label = str | None
"""None is a vote for `unknown`."""


class Ballot:
    """Counts the votes of the last seconds, and says which label they are for.

    The first vote decides. From then on the label stays until another leads it by the margin, a
    share of all votes in the window, or until no vote is left for it.

    Args:
        seconds: the length of the window; a vote that is as old as that counts no more.
    """

    def __init__(self, seconds: float, margin: float = MARGIN) -> None:
        self._seconds, self._margin = seconds, margin
        self._votes: deque[tuple[float, Label]] = deque()
        self._counts: Counter[Label] = Counter()
        self._now = float("-inf")
        self._chosen: tuple[Label, float] | None = None

    def add(self, now: float, timestamp: float, result: Result) -> Vote | None:
        """Count a frame's vote, and return what the votes say at that moment.

        Args:
            now: the frame's time in seconds. A frame that is late counts at its own time; one
                that is late by more than the window begins a new vote, as a film that is
                played again does.
            timestamp: becomes `Vote.since` if the label changes.
            result: a result without an answer gives no vote, and time goes on.

        Returns:
            None where no frame in the window has voted.
        """
        if now <= self._now - self._seconds:
            self._clear()
        self._now = max(self._now, now)
        if result.valid and result.labels:
            self._insert(now, None if result.unknown else result.labels[0])
        while self._votes and (
            self._votes[0][0] <= self._now - self._seconds or len(self._votes) > MOST_VOTES
        ):
            self._remove()
        return self._standing(timestamp)

    def awaits(self, now: float) -> bool:
        """Whether a vote would still count at that time, in seconds."""
        return bool(self._votes) and self._votes[-1][0] > now - self._seconds

    def _standing(self, timestamp: float) -> Vote | None:
        count = len(self._votes)
        if not count:
            self._chosen = None
            return None
        leader, most = self._leader()
        present = 0 if self._chosen is None else self._counts[self._chosen[0]]
        if self._chosen is None or not present or most - present >= self._margin * count:
            self._chosen = leader, timestamp
        label, since = self._chosen
        return Vote(label, self._counts[label] / count, count, since)

    def _leader(self) -> tuple[Label, int]:
        """The label with the most votes; among equals, the one that was voted for last."""
        most = max(self._counts.values())
        leaders = {label for label, count in self._counts.items() if count == most}
        return next(label for _, label in reversed(self._votes) if label in leaders), most

    def _insert(self, now: float, label: Label) -> None:
        at = len(self._votes)
        while at and self._votes[at - 1][0] > now:
            at -= 1
        self._votes.insert(at, (now, label))
        self._counts[label] += 1

    def _remove(self) -> None:
        _, label = self._votes.popleft()
        self._counts[label] -= 1
        if not self._counts[label]:
            del self._counts[label]

    def _clear(self) -> None:
        self._votes.clear()
        self._counts.clear()
        self._now, self._chosen = float("-inf"), None


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
