"""Progress as lines on standard error, written by the thread that does the work."""

from __future__ import annotations

import sys
import time

PAUSE_SECONDS = 5.0


class ProgressLines:
    """At most one line every few seconds, and one at the end of each stage.

    A bar that draws itself ten times a second remembers what it drew, in the process whose
    memory these checks weigh: over a soak that was two bytes for every frame.
    """

    def __init__(self, pause: float = PAUSE_SECONDS) -> None:
        self._pause = pause
        self._last = -pause

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` of `stage` are finished."""
        now = time.monotonic()
        if done < total and now - self._last < self._pause:
            return
        self._last = now
        print(f"{stage}: {done:,} of {total:,}", file=sys.stderr)
