"""A source read by a thread of its own."""

from __future__ import annotations

import time
from dataclasses import replace

from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.pipeline.inbox import Inbox
from foldcam.runtime.sources import Attached, Link, Source
from foldcam.runtime.system.monitor import Cause, Monitor, State


class _InboxLink(Link):
    """Also informs the inbox that it need not wait for a source's frames."""

    def __init__(self, monitor: Monitor, stream: int, inbox: Inbox) -> None:
        super().__init__(monitor, stream)
        self._number = stream
        self._inbox = inbox
        self.latest: State | None = None

    def state(self, state: State, reason: str = "") -> None:
        super().state(state, reason)
        self.latest = state
        if state is not State.streaming:
            self._inbox.interrupted(self._number)


class Reader:
    """Puts every frame of a source into the inbox."""

    def __init__(
        self, source: Source, stream: int, inbox: Inbox, control: Control, monitor: Monitor
    ) -> None:
        self._source = source
        self._stream = stream
        self._inbox = inbox
        self._control = control
        self._monitor = monitor
        self._link = _InboxLink(monitor, stream, inbox)
        if isinstance(source, Attached):
            source.attach(self._link)
            control.when_stopping(source.stop)

    def work(self) -> None:
        """Until the source ends or the run stops."""
        try:
            with self._source as source:
                self._read(source)
        finally:
            if self._link.latest is not State.stopped:
                self._link.state(State.stopped)
            self._inbox.finish(self._stream)

    def _read(self, source: Source) -> None:
        frames = iter(source)
        unreadable = 0
        while not self._control.stopping:
            asked = time.monotonic()
            frame = next(frames, None)
            if source.stills and len(source.skipped) > unreadable:
                more = len(source.skipped) - unreadable
                self._link.dropped(Cause.unreadable, more)
                unreadable += more
            if frame is None:
                return
            if self._link.latest is None:
                # Files are always ready, and say nothing.
                self._link.state(State.streaming)
            self._monitor.captured(self._stream, 1e3 * (time.monotonic() - asked))
            if self._stream:
                frame = replace(frame, stream=self._stream)
            if not self._inbox.put(self._stream, frame):
                return
