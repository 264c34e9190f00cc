"""Regions and preprocessing, one forward pass ahead of the network."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence

from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.inbox import Inbox
from foldcam.runtime.pipeline.work import Part, Pending, Runner, Work
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import Box
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, Monitor

Find = Callable[[Frame], Sequence[Box]]


class Preparer:
    """Fills batches from the inbox, in buffers that go round.

    Args:
        find: the regions of a frame; None shows the network whole frames.
        tolerant: per source, whether a frame on which `find` fails is left out, as a
            camera's is, or ends the run.
        failures: the failures of `find` in a row, after which the run ends in any case.
    """

    def __init__(
        self,
        inbox: Inbox,
        runner: Runner,
        control: Control,
        monitor: Monitor,
        *,
        capacity: int,
        frames: int,
        find: Find | None,
        tolerant: Sequence[bool],
        failures: int,
        ahead: int,
    ) -> None:
        self._inbox = inbox
        self._control = control
        self._monitor = monitor
        self._frames = frames
        self._find = find
        self._tolerant = tolerant
        self._failures = failures
        self._failed = 0
        # One is being filled and one is with the network beside those that wait.
        self._free: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        for _ in range(ahead + 2):
            self._free.put(Work(runner.new_load(capacity)))
        self._ready: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        control.when_stopping(self._wake)

    def work(self) -> None:
        """Until the inbox has ended."""
        while frames := self._inbox.take(self._frames):
            current: Work | None = None
            for frame, waited in frames:
                boxes = self._regions(frame)
                if boxes is not None:
                    current = self._add(current, Pending(frame, waited), boxes)
                if self._control.stopping:
                    return
            if current is not None:
                self._ready.put(current)
        self._ready.put(None)

    def next(self) -> Work | None:
        """The next forward pass; None when there is none any more."""
        return self._ready.get()

    def give_back(self, work: Work) -> None:
        """A forward pass is over, and its buffer free."""
        work.clear()
        self._free.put(work)

    def _wake(self) -> None:
        self._ready.put(None)
        self._free.put(None)

    def _regions(self, frame: Frame) -> Sequence[Box | None] | None:
        """What the network is shown; None if the frame is to be left out."""
        if self._find is None:
            return [None]
        try:
            boxes = self._find(frame)
        except FoldcamError:
            self._failed += 1
            if not self._tolerant[frame.stream] or self._failed >= self._failures:
                raise
            self._monitor.dropped(frame.stream, Cause.failed)
            return None
        self._failed = 0
        return boxes

    def _add(
        self, current: Work | None, pending: Pending, boxes: Sequence[Box | None]
    ) -> Work | None:
        """Put every region into a row; full batches go, the last one is returned."""
        rows = 0
        for number, box in enumerate(boxes, start=1):
            if current is None and (current := self._free.get()) is None:
                return None
            begun = time.monotonic()
            current.load.add(pending.frame.image, box)
            pending.prepared_ms += 1e3 * (time.monotonic() - begun)
            rows += 1
            if current.load.full and number < len(boxes):
                current.parts.append(Part(pending, rows, last=False))
                self._ready.put(current)
                current, rows = None, 0
        if current is None and (current := self._free.get()) is None:
            return None
        current.parts.append(Part(pending, rows, last=True))
        if current.load.full:
            self._ready.put(current)
            return None
        return current
