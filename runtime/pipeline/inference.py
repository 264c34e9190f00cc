"""The forward passes, and what happens when one fails."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.preparer import Preparer
from foldcam.runtime.pipeline.work import Part, Pending, Runner, Work
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, Monitor

Deliver = Callable[[Pending], None]
_LOOK_SECONDS = 0.1


class Inference:
    """Runs what the preparer has ready, and nothing else: its thread waits for nobody.

    A backend that fails is opened again, each time after a longer wait. Rows of recorded
    sources are computed again; those of live ones are old by then and are lost.
    """

    def __init__(
        self,
        runner: Runner,
        preparer: Preparer,
        control: Control,
        monitor: Monitor,
        delivery: Delivery,
        *,
        flow: FlowOptions,
        again: Sequence[bool],
        patient: bool,
    ) -> None:
        self._runner = runner
        self._preparer = preparer
        self._control = control
        self._monitor = monitor
        self._delivery = delivery
        self._again = again
        self._limit = flow.failures if patient and runner.can_reopen else 1
        self._backoff = Backoff(flow.backoff_seconds, flow.backoff_most_seconds)
        self._failed = 0

    def work(self) -> None:
        """Until the preparer has no more, or the run stops."""
        try:
            while (work := self._preparer.next()) is not None and not self._control.stopping:
                done = self._done(work)
                if done is None and self._control.stopping:
                    return
                self._delivery.put(work.parts, done)
                self._preparer.give_back(work)
        finally:
            self._delivery.end()

    def _done(self, work: Work) -> Any:
        """The forward pass, after as many attempts as it takes; None if the rows are lost."""
        while True:
            try:
                done = self._runner.forward(work.load)
            except (FoldcamError, MemoryError) as error:
                if not self._recover(error):
                    return None
                if not any(self._again[part.pending.frame.stream] for part in work.parts):
                    return None
            else:
                self._failed = 0
                self._backoff.reset()
                return done

    def _recover(self, error: FoldcamError | MemoryError) -> bool:
        """Wait and open the backend again; False when the run stops meanwhile."""
        while True:
            self._failed += 1
            if self._failed >= self._limit:
                if self._limit == 1:
                    raise error
                reason = str(error).rstrip(".") or "there is not enough memory"
                raise FoldcamError(
                    f"The model failed {self._failed} times in a row, the last time because: "
                    f"{reason}."
                ) from error
            if not self._control.pause(self._backoff.next()):
                return False
            try:
                self._runner.reopen()
            except (FoldcamError, MemoryError) as again:
                error = again
                continue
            self._monitor.restarted()
            return True


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
