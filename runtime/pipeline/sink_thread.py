"""A sink with a bounded queue and a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.sinks.base import Loses, NotWritten, Reopens, Sink, StopRequested
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, Monitor
from foldcam.runtime.system.text import quantity

GRACE_SECONDS = 10.0
"""A sink that does not take a result for so long after the run was stopped is given up."""


@dataclass(frozen=True)
class Outcome:
    """What a sink has to say at the end.

    Attributes:
        output: what it wrote, in words; None if nothing stays.
        loss: a sentence, without a full stop; empty if nothing was lost.
        failed: whether it lost what must not be lost: results of a recorded source, or all.
    """

    output: str | None
    loss: str
    failed: bool


@dataclass(frozen=True)
class _Queued:
    item: FrameResults
    may_be_lost: bool


class SinkThread:
    """Hands results to one sink, in order, without making the network wait for a live source.

    When the queue is full, a result that may be lost gives way: those of live sources,
    and all that go to a sink that may skip. For the others the network waits.

    A sink that fails on results that may not be lost ends the run. One that fails on a
    live source's is given up, and opened again later if it offers `reopen`.

    Args:
        flow: length of the queue, and how long to wait before `reopen`.
    """

    def __init__(self, sink: Sink, control: Control, monitor: Monitor, flow: FlowOptions) -> None:
        self.sink = sink
        self.main_thread = bool(getattr(sink, "main_thread", False))
        """Whether it must be called by the main thread, as windows must."""
        self.alive = True
        """Whether it takes results, or will again."""
        self._control = control
        self._monitor = monitor
        self._number = monitor.add_sink(sink.name)
        self._room = max(1, flow.queue)
        self._items: deque[_Queued] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.error: FoldcamError | None = None
        """Why it does not take results; None if it does."""
        self._backoff = Backoff(flow.backoff_seconds, flow.backoff_most_seconds)
        self._retry_at = 0.0
        self._late = 0
        self._owes = False
        self._owed = 0
        self.thread: threading.Thread | None = None

    @property
    def waiting(self) -> bool:
        """Whether results wait."""
        return bool(self._items)

    @property
    def busy(self) -> bool:
        """Whether its thread still writes."""
        return self.thread is not None and self.thread.is_alive()

    def join(self, seconds: float) -> None:
        """Wait for its thread to end."""
        if self.thread is not None:
            self.thread.join(seconds)

    def leave(self, *error: Any) -> None:
        """Leave the sink, unless it was left when it failed, or is stuck and cannot be."""
        if self.busy and self.error is None:
            self.error = FoldcamError(
                f"{self.sink.name} did not take a result for {GRACE_SECONDS:g} seconds."
            )
            # What it holds on to, and what waits behind that.
            self._lost(Cause.sink_behind, str(self.error).rstrip("."), 1 + len(self._items))
        if self.error is None:
            try:
                self.sink.__exit__(*error)
            finally:
                self._add_late_losses()

    def outcome(self) -> Outcome:
        """What it wrote and lost; final once it was left."""
        status = self._monitor.sink(self._number)
        lost = sum(status.drops.values())
        # One that cannot go on has removed what it had begun.
        kept = self.error is None or isinstance(self.sink, Reopens)
        some = status.written > 0 or lost == 0
        sentence = ""
        if lost and not self.sink.may_skip:
            reason = status.reason or ", ".join(status.drops)
            sentence = (
                f"{status.name} lost {lost} of {quantity(status.written + lost, 'result')}: "
                f"{reason}"
            )
        return Outcome(
            self.sink.output if kept and some else None,
            sentence,
            bool(sentence) and (self._owed > 0 or status.written == 0 or self.error is not None),
        )

    def put(self, item: FrameResults, may_be_lost: bool) -> None:
        """Queue one frame's results."""
        queued = _Queued(item, may_be_lost or self.sink.may_skip)
        self._owes = self._owes or not queued.may_be_lost
        with self._changed:
            if len(self._items) >= self._room:
                if queued.may_be_lost and not self._give_way():
                    self._monitor.lost(self._number, Cause.sink_behind)
                    return
                if not queued.may_be_lost and not self._wait_for_room():
                    self._lost(Cause.sink_behind)
                    return
            self._items.append(queued)
            self._changed.notify_all()
        if self.main_thread:
            self._control.notify()

    def end(self) -> None:
        """No more results come; those that wait are still written."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def discard(self) -> None:
        """Neither those that wait."""
        with self._changed:
            self._items.clear()
            self._ended = True
            self._changed.notify_all()

    def work(self) -> None:
        """Write until `end`: what a sink's own thread does."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items) or self._ended)
                if not self._items:
                    return
            self.pump()

    def pump(self) -> bool:
        """Write what waits, one result; whether there was one."""
        with self._changed:
            if not self._items:
                return False
            queued = self._items.popleft()
            self._changed.notify_all()
        if self._ready():
            self._write(queued)
        else:
            self._monitor.lost(self._number, Cause.sink_failed)
        self._add_late_losses()
        return True

    def _write(self, queued: _Queued) -> None:
        begun = time.monotonic()
        try:
            self.sink.write(queued.item)
        except StopRequested:
            self._control.interrupt()
        except NotWritten as loss:
            self._monitor.lost(self._number, Cause.sink_failed, str(loss))
            self._owed += not queued.may_be_lost
        except FoldcamError as error:
            self._monitor.lost(self._number, Cause.sink_failed, str(error).rstrip("."))
            if not queued.may_be_lost:
                raise
            self._give_up(error)
        else:
            self._monitor.wrote(self._number, 1e3 * (time.monotonic() - begun))

    def _lost(self, cause: Cause, reason: str = "", count: int = 1, late: bool = False) -> None:
        """Losses of which it is not known whose they are: if any are owed, these are."""
        self._monitor.lost(self._number, cause, reason, count, late=late)
        self._owed += count if self._owes else 0

    def _add_late_losses(self) -> None:
        if isinstance(self.sink, Loses):
            total, reason = self.sink.losses()
            if total > self._late:
                self._lost(Cause.sink_failed, reason, total - self._late, late=True)
                self._late = total

    def _give_up(self, error: FoldcamError) -> None:
        self.error = error
        # What it had begun is removed, as by a run that failed; if it cannot be, the others
        # go on all the same.
        with suppress(FoldcamError):
            self.sink.__exit__(type(error), error, error.__traceback__)
        self.alive = isinstance(self.sink, Reopens)
        self._retry_at = time.monotonic() + self._backoff.next()
        self._control.notify()

    def _ready(self) -> bool:
        """Whether the sink takes results; one that failed is opened again when it is time."""
        if self.error is None:
            return True
        if not isinstance(self.sink, Reopens) or time.monotonic() < self._retry_at:
            return False
        try:
            self.sink.reopen()
        except FoldcamError as error:
            self.error = error
            self._retry_at = time.monotonic() + self._backoff.next()
            return False
        self.error = None
        return True

    def _give_way(self) -> bool:
        """Drop the oldest result that may be lost; False if there is none."""
        for queued in self._items:
            if queued.may_be_lost:
                self._items.remove(queued)
                self._monitor.lost(self._number, Cause.sink_behind)
                return True
        return False

    def _wait_for_room(self) -> bool:
        stopped_at: float | None = None
        while len(self._items) >= self._room and not self._ended:
            if self._control.failure is not None:
                return False
            if self._control.stopping:
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at > GRACE_SECONDS:
                    return False
            self._changed.wait(0.1)
        return not self._ended


def nobody_left(sink_threads: list[SinkThread]) -> Callable[[], FoldcamError | None]:
    """A check whether a run has still somebody to write for.

    Returns:
        A function that returns the error of the last sink that failed, once neither a sink
        that keeps results nor one that shows them is left; else None.
    """
    # Whoever only remembers for the end is nobody to go on for.
    sink_threads = [each for each in sink_threads if not getattr(each.sink, "passive", False)]
    keep = any(not sink_thread.sink.may_skip for sink_thread in sink_threads)

    def check() -> FoldcamError | None:
        if not keep or any(sink_thread.alive for sink_thread in sink_threads):
            return None
        return next(
            (sink_thread.error for sink_thread in sink_threads if sink_thread.error is not None),
            None,
        )

    return check
