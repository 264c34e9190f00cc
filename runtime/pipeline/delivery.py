"""From a forward pass to the frames that it completes, while the next pass runs."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.work import Part, Pending, Runner
from foldcam.runtime.system.monitor import Cause, Monitor

Deliver = Callable[[Pending], None]
_LOOK_SECONDS = 0.1


class Delivery:
    """Turns outputs into results and gives completed frames on, in order.

    It has a thread of its own, so that the network's computes and does little else: what
    Python does between two passes is time in which the network rests.
    """

    def __init__(
        self, runner: Runner, control: Control, monitor: Monitor, deliver: Deliver, room: int
    ) -> None:
        self._runner = runner
        self._control = control
        self._monitor = monitor
        self._deliver = deliver
        self._passes: queue.Queue[tuple[list[Part], Any] | None] = queue.Queue(max(1, room))

    def put(self, parts: list[Part], done: Any) -> None:
        """Hand over a forward pass, or None if it failed; waits for room."""
        self._put((parts, done))

    def end(self) -> None:
        """No more come; those that wait are still delivered."""
        self._put(None)

    def work(self) -> None:
        """Until `end`, or the run fails."""
        while self._control.failure is None:
            try:
                item = self._passes.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if item is None:
                return
            parts, done = item
            self._hand_out(parts, None if done is None else self._runner.results(done))

    def _put(self, item: tuple[list[Part], Any] | None) -> None:
        while self._control.failure is None:
            try:
                self._passes.put(item, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return

    def _hand_out(self, parts: list[Part], results: Sequence[Result] | None) -> None:
        at = 0
        for part in parts:
            pending = part.pending
            if results is None:
                pending.lost = True
            else:
                own = results[at : at + part.rows]
                at += part.rows
                pending.results += own
            if part.last:
                self._complete(pending)

    def _complete(self, pending: Pending) -> None:
        stream = pending.frame.stream
        if pending.lost:
            self._monitor.dropped(stream, Cause.failed)
            return
        age = 1e3 * (time.monotonic() - pending.frame.captured)
        network = [result.timings.inference_ms for result in pending.results]
        stages = {
            "wait": pending.waited_ms,
            "preprocess": pending.prepared_ms,
            "inference": sum(network),
        }
        self._monitor.processed(stream, age, stages, network)
        self._deliver(pending)
