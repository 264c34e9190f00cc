"""When to try again: an explicit state machine for a live source, without threads or clocks.

    connecting -> streaming <-> stalled
        |             |            |
        +-------> backoff <--------+        (stopped from anywhere)
                      |
                  connecting

Times are seconds of any clock that only goes forward: the machine compares what it is given
and asks for none itself.
"""

from __future__ import annotations

import random

from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.monitor import State

STALLED_AFTER = 0.5
"""Share of the stall deadline after which a silent source is called stalled."""


class Reconnect:
    """What a live source should be doing.

    Args:
        flow: deadlines, waits, and whether to try again at all.

    Attributes:
        deadline: when `at` must be called at the latest.
    """

    def __init__(
        self, flow: FlowOptions, now: float, generator: random.Random | None = None
    ) -> None:
        self._flow = flow
        self._backoff = Backoff(flow.backoff_seconds, flow.backoff_most_seconds, generator)
        self._streaming_since: float | None = None
        self._last = now
        self._waited = 0.0
        self.state = State.connecting
        self.reason = ""
        self.deadline = now + flow.stall_seconds

    def frame(self, now: float) -> None:
        """A frame came."""
        if self.state in (State.stopped, State.backoff):
            return
        if self._streaming_since is None:
            self._streaming_since = now
        # Well is what lasts longer than it was waited for: a source that gives one
        # picture and dies is not tried at the pace of a healthy one.
        if now - self._streaming_since >= self._waited:
            self._backoff.reset()
            self._waited = 0.0
        self._last = now
        self.state, self.reason = State.streaming, ""
        self.deadline = now + STALLED_AFTER * self._flow.stall_seconds

    def failed(self, now: float, reason: str) -> None:
        """It could not be opened, or ended."""
        if self.state not in (State.stopped, State.backoff):
            self._fall_back(now, reason)

    def at(self, now: float) -> None:
        """Time passes."""
        if self.state is State.stopped or now < self.deadline:
            return
        seconds = self._flow.stall_seconds
        if self.state is State.backoff:
            self.state = State.connecting
            self._streaming_since = None
            self.deadline = now + seconds
        elif self.state is State.connecting:
            self._fall_back(now, f"nothing came within {seconds:g} s")
        elif self.state is State.stalled or now >= self._last + seconds:
            self._fall_back(now, f"delivered nothing for {seconds:g} s")
        else:
            silent = STALLED_AFTER * seconds
            self.state, self.reason = State.stalled, f"has delivered nothing for {silent:g} s"
            self.deadline = self._last + seconds

    def stop(self, reason: str = "") -> None:
        """It is not wanted any more."""
        self.state, self.reason = State.stopped, reason

    def _fall_back(self, now: float, reason: str) -> None:
        if not self._flow.reconnect:
            self.stop(reason)
            return
        self._waited = self._backoff.next()
        self.state, self.reason = State.backoff, reason
        self.deadline = now + self._waited
