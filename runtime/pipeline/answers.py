"""Frames without an answer: counted, and where there are only such, the model is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from foldcam.runtime.model.result import Result
from foldcam.runtime.model.unanswered import ZERO

FRAMES_IN_A_ROW = 30
"""Frames of all sources of a live run without an answer, after which the run ends."""


class Answers:
    """Watches whether the model answers.

    A picture of which a network makes zeros has no answer, and breaks no model. A recording is
    read to its end, since a film may begin or end in black; a live run has no end, and stops
    after `FRAMES_IN_A_ROW` frames without an answer.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._in_a_row = 0
        self._unanswered = 0
        self._answered = False
        self._causes: Counter[str] = Counter()
        self.broken: str | None = None
        """One sentence, once nothing more is to be expected of the model."""

    def add(self, results: Sequence[Result]) -> dict[str, int]:
        """One frame's results; returns how many are no answer, by cause."""
        causes = Counter(result.error for result in results if result.error is not None)
        self._causes.update(causes)
        # Zeros are what a sound network without biases makes of a black picture.
        if len(results) > causes.total() or ZERO in causes:
            self._answered, self._in_a_row = True, 0
        elif results:
            self._in_a_row += 1
            self._unanswered += 1
        if self._live and self._in_a_row >= FRAMES_IN_A_ROW and self.broken is None:
            self.broken = _sentence(f"{self._in_a_row} frames in a row have no answer", causes)
        return dict(causes)

    def end(self) -> None:
        """No more frames come."""
        if self._answered or not self._unanswered or self.broken is not None:
            return
        count = self._unanswered
        frames = "the only frame has" if count == 1 else f"all {count} frames have"
        self.broken = _sentence(f"{frames} no answer", self._causes)


def _sentence(what: str, causes: Counter[str]) -> str:
    (cause, _), *_ = causes.most_common(1)
    return (
        f"The model is broken, or its pictures are: {what}, because {cause}: look at the pictures "
        "(a black one has nothing to compare), or export the network again, in float32."
    )
