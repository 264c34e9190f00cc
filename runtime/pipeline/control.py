"""What all threads of a run share: whether it goes on, and why it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Control:
    """The end of a run: asked for by the user, by a sink, or by a failure."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._on_stop: list[Callable[[], None]] = []
        self.interrupted = False
        """Whether the user ended it."""
        self.failure: BaseException | None = None
        """What ended it; the first of several."""

    @property
    def stopping(self) -> bool:
        """Whether no further frame is to be processed."""
        return self._stopping.is_set()

    def when_stopping(self, call: Callable[[], None]) -> None:
        """Have something waked when the run stops; it must not block."""
        self._on_stop.append(call)

    def interrupt(self) -> None:
        """The user wants it to end: what was processed is still written."""
        self.interrupted = self.interrupted or self.failure is None
        self.end()

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        with self._changed:
            if self.failure is None:
                self.failure = error
        self.end()

    def guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work of a thread, whose every exception ends the run rather than the thread."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.fail(error)
            finally:
                self.notify()

        return guarded

    def pause(self, seconds: float) -> bool:
        """Wait, unless the run stops; whether it goes on."""
        return not self._stopping.wait(seconds)

    def notify(self) -> None:
        """Wake who waits in `wait`."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is done, the run is notified of it, or the time is over."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def end(self) -> None:
        """Nothing more is to be processed: what was is still written."""
        with self._changed:
            first = not self._stopping.is_set()
            self._stopping.set()
        if first:
            for call in self._on_stop:
                call()
        self.notify()
