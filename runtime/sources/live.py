"""A live source that is opened again whenever it stops."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import PurePath

from foldcam.runtime.sources.base import Frame, Skip, Source, undecodable
from foldcam.runtime.sources.capture import Capture
from foldcam.runtime.sources.grabber import Grabber, Picture, Worker, clause
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, State

CLOSE_SECONDS = 0.5
"""How long a capture is given to close before its thread is left behind."""

FASTEST = 240.0
"""Frames per second that a live source may claim."""
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


class LiveSource(Source):
    """Frames as they come, by a camera or from the network.

    Capture happens in a thread that is left behind when it is stuck; `Reconnect` decides
    when to try again. Frame numbers go on counting over interruptions.
    """

    live = True

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        name: str,
        stem: str,
        flow: FlowOptions,
        generator: random.Random | None = None,
    ) -> None:
        super().__init__(name, stem)
        self._open = open_capture
        self._flow = flow
        self._random = generator
        self._changed = threading.Condition()
        self._undecoded = 0
        self._attempts = 0
        self._grabber: Grabber | None = None
        self._worker: Worker | None = None
        self._left: list[Worker] = []

    @property
    def left_behind(self) -> int:
        """Threads that are still stuck in a capture which nobody wants any more."""
        self._left = [worker for worker in self._left if worker.alive]
        return len(self._left)

    def connect(self) -> None:
        """Make the first attempt now."""
        grabber = self._grabber = self._attempt()
        deadline = time.monotonic() + self._flow.stall_seconds
        with self._changed:
            self._wait(lambda: grabber.opened or grabber.over, deadline)
            failure, opened = grabber.failure, grabber.opened
            self.fps = _believable(grabber.fps)
        if opened:
            return
        self._close()
        if failure is None:
            raise FoldcamError(
                f"{self.name} cannot be opened: nothing came within {self._flow.stall_seconds:g} s."
            )
        raise failure

    def stop(self) -> None:
        """End the iteration, from any thread."""
        with self._changed:
            super().stop()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and close the capture."""
        self.stop()
        self._close()

    def __iter__(self) -> Iterator[Frame]:
        machine = Reconnect(self._flow, time.monotonic(), self._random)
        count, first = 0, 0.0
        self._link.state(machine.state)
        with self._changed:
            if self._grabber is not None:
                # What came before the run began is no part of it.
                self._grabber.overtaken = self._grabber.bad = 0
        while machine.state is not State.stopped:
            before = machine.state, machine.reason
            picture = self._step(machine, count)
            if (machine.state, machine.reason) != before:
                self._link.state(machine.state, machine.reason)
            if machine.state in (State.backoff, State.stopped):
                self._drop()
            if picture is not None:
                count += self._missed()
                first = first or picture.at
                yield Frame(
                    picture.image, count, self.name, PurePath(self.stem), picture.at - first,
                    picture.at, connection=self._attempts,
                )  # fmt: skip
                count += 1
        if self._undecoded:
            self.skipped.append(Skip(self.name, undecodable(self._undecoded)))
        if machine.reason:
            self.skipped.append(Skip(self.name, machine.reason))

    def _step(self, machine: Reconnect, count: int) -> Picture | None:
        """Wait for what comes next: a picture, a failure, a deadline, or the end."""
        if machine.state is State.connecting and self._grabber is None:
            self._grabber = self._attempt()
        grabber = self._grabber
        with self._changed:
            self._wait(
                lambda: grabber is not None and bool(grabber.pictures or grabber.over),
                machine.deadline,
            )
            now = time.monotonic()
            if self._stopped.is_set():
                machine.stop()
            elif grabber is not None and grabber.pictures:
                picture = grabber.pictures.popleft()
                self._changed.notify_all()
                self.fps = _believable(grabber.fps)
                machine.frame(now)
                return picture
            elif grabber is not None and grabber.over:
                machine.failed(now, self._ending(grabber, count))
            else:
                machine.at(now)
        return None

    def _missed(self) -> int:
        """How many pictures before the present one were overtaken or cannot be decoded."""
        with self._changed:
            if self._grabber is None:
                return 0
            overtaken, bad = self._grabber.overtaken, self._grabber.bad
            self._grabber.overtaken = self._grabber.bad = 0
        for cause, count in ((Cause.overtaken, overtaken), (Cause.unreadable, bad)):
            if count:
                self._link.dropped(cause, count)
        self._undecoded += bad
        return overtaken + bad

    def _wait(self, ready: Callable[[], bool], deadline: float) -> None:
        self._changed.wait_for(
            lambda: self._stopped.is_set() or ready(), max(0.0, deadline - time.monotonic())
        )

    def _ending(self, grabber: Grabber, count: int) -> str:
        if grabber.failure is not None:
            return clause(grabber.failure, self.name)
        if not count:
            return "delivered no frame"
        return f"stopped delivering after {count} frames"

    def _attempt(self) -> Grabber:
        self._attempts += 1
        grabber = Grabber(self._open, self._changed, newest=self._flow.keep != "every")
        if self._worker is None:
            self._worker = Worker(f"capture {self.stem}")
        self._worker.submit(grabber.work)
        return grabber

    def _close(self) -> None:
        self._drop()
        if self._worker is not None:
            self._worker.retire()
            self._worker = None

    def _drop(self) -> None:
        """Give up the present attempt, without waiting long for it."""
        grabber, self._grabber = self._grabber, None
        if grabber is None:
            return
        with self._changed:
            grabber.abandon()
        # Closed in most cases before the next attempt: a camera can be open only once.
        seconds = 0.0 if self._stopped.is_set() and not grabber.opened else CLOSE_SECONDS
        if not grabber.closed(seconds) and self._worker is not None:
            self._worker.retire()
            self._left = [*(worker for worker in self._left if worker.alive), self._worker]
            self._worker = None


def _believable(fps: float | None) -> float | None:
    """Streams without a rate report their clock's, such as 90000."""
    return fps if fps is not None and fps <= FASTEST else None
