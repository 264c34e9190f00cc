"""The forward passes, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.delivery import Delivery
from foldcam.runtime.pipeline.preparer import Preparer
from foldcam.runtime.pipeline.work import Runner, Work
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.backoff import Backoff
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor


class Inference:
    """Runs what the preparer has ready, and nothing else: its thread waits for nobody.

    A backend that fails is opened again, each time after a longer wait. Rows of recorded
    sources are computed again; those of live ones are old by then and are lost.

    Args:
        flow: how often a failed pass is tried again, and the waits between.
        again: per source, whether its rows are computed again after a failure.
        patient: whether a failure may be met with waiting at all.
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
