"""The votes of one region within a window of time."""

from __future__ import annotations

from collections import Counter, deque

from foldcam.runtime.model.result import Result
from foldcam.runtime.model.vote import Vote

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
