"""The forward passes, and what happens when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from runtime.backoff import Backoff
from runtime.errors import FoldcamError
from runtime.model import Result
from runtime.monitor import Cause, Monitor
from runtime.options import FlowOptions
from runtime.pipeline.control import Control
from runtime.pipeline.preparer import Preparer
from runtime.pipeline.work import Pending, Runner, Work

Deliver = Callable[[Pending], None]


class Inference:
    """Runs what the preparer has ready and delivers completed frames in order.

    A backend that fails is opened again, each time after a longer wait. Rows of recorded
    sources are computed again; those of live ones are old by then and are lost.

    Args:
        runner: the model.
        preparer: has the batches.
        deliver: takes each completed frame.
        flow: how often and how long.
        again: per source, whether its rows are computed again after a failure.
        patient: whether a failure may be met with waiting at all.
    """

    def __init__(
        self,
        runner: Runner,
        preparer: Preparer,
        control: Control,
        monitor: Monitor,
        deliver: Deliver,
        *,
        flow: FlowOptions,
        again: Sequence[bool],
        patient: bool,
    ) -> None:
        self._runner = runner
        self._preparer = preparer
        self._control = control
        self._monitor = monitor
        self._deliver = deliver
        self._again = again
        self._limit = flow.failures if patient and runner.can_reopen else 1
        self._backoff = Backoff(flow.backoff_seconds, flow.backoff_most_seconds)
        self._failed = 0

    def work(self) -> None:
        """Until the preparer has no more, or the run stops."""
        while (work := self._preparer.next()) is not None and not self._control.stopping:
            results = self._results(work)
            if results is None and self._control.stopping:
                return
            self._hand_out(work, results)
            self._preparer.give_back(work)

    def _results(self, work: Work) -> Sequence[Result] | None:
        """One result per row, after as many attempts as it takes; None if the rows are lost."""
        while True:
            try:
                results = self._runner.infer(work.load)
            except (FoldcamError, MemoryError) as error:
                if not self._recover(error):
                    return None
                if not any(self._again[part.pending.frame.stream] for part in work.parts):
                    return None
            else:
                self._failed = 0
                self._backoff.reset()
                return results

    def _recover(self, error: FoldcamError | MemoryError) -> bool:
        """Wait and open the backend again; False when the run stops meanwhile.

        Raises:
            FoldcamError: too many failures in a row.
            MemoryError: likewise, for lack of memory.
        """
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

    def _hand_out(self, work: Work, results: Sequence[Result] | None) -> None:
        at = 0
        for part in work.parts:
            pending = part.pending
            if results is None:
                pending.lost = True
            else:
                own = results[at : at + part.rows]
                at += part.rows
                pending.results += own
                pending.inference_ms += sum(result.timings.inference_ms for result in own)
            if not part.last:
                continue
            if pending.lost:
                self._monitor.dropped(pending.frame.stream, Cause.failed)
                continue
            age = 1e3 * (time.monotonic() - pending.frame.captured)
            stages = {
                "wait": pending.waited_ms,
                "preprocess": pending.prepared_ms,
                "inference": pending.inference_ms,
            }
            self._monitor.processed(pending.frame.stream, age, stages)
            self._deliver(pending)
