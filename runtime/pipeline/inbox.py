"""Frames of all sources on their way to the network, in bounded queues."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from foldcam.runtime.pipeline.control import Control
from foldcam.runtime.sources import Attached, Frame, Link, Source
from foldcam.runtime.system.monitor import Cause, Monitor, State


@dataclass
class _Lane:
    """One source: `newest` keeps a single frame, else the source waits for room."""

    newest: bool
    live: bool
    frames: deque[tuple[Frame, float]] = field(default_factory=deque)
    open: bool = True
    flowing: bool = False
    latest: float = 0.0
    interval: float = 0.0

    def arrived(self, now: float) -> None:
        """A frame came: remember at what pace they do."""
        if self.flowing:
            gap = now - self.latest
            self.interval = gap if not self.interval else 0.8 * self.interval + 0.2 * gap
        self.latest, self.flowing = now, True

    def due(self, deadline: float) -> bool:
        """Whether a live source's next frame is to be expected before then."""
        return self.flowing and self.latest + self.interval <= deadline


class Inbox:
    """Where readers put frames and the preparer takes them, from every source in turn."""

    def __init__(
        self,
        newest: Sequence[bool],
        live: Sequence[bool],
        room: int,
        gather_seconds: float,
        overtaken: Callable[[int], None],
    ) -> None:
        self._lanes = [_Lane(*kind) for kind in zip(newest, live, strict=True)]
        self._room = max(1, room)
        self._gather = gather_seconds
        self._overtaken = overtaken
        self._changed = threading.Condition()
        self._closed = False
        self._next = 0

    def put(self, stream: int, frame: Frame) -> bool:
        """Hand over a frame; False once nobody takes any more.

        A source that keeps every frame waits here until there is room.
        """
        lane = self._lanes[stream]
        with self._changed:
            if lane.newest:
                while lane.frames:
                    lane.frames.popleft()
                    self._overtaken(stream)
            else:
                self._changed.wait_for(lambda: self._closed or len(lane.frames) < self._room)
            if self._closed:
                return False
            now = time.monotonic()
            lane.frames.append((frame, now))
            lane.arrived(now)
            self._changed.notify_all()
            return True

    def interrupted(self, stream: int) -> None:
        """A source delivers nothing for now: others' frames need not wait for its."""
        with self._changed:
            self._lanes[stream].flowing = False
            self._changed.notify_all()

    def finish(self, stream: int) -> None:
        """A source has ended."""
        with self._changed:
            self._lanes[stream].open = self._lanes[stream].flowing = False
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits; readers and the preparer end."""
        with self._changed:
            self._closed = True
            for lane in self._lanes:
                lane.frames.clear()
            self._changed.notify_all()

    def take(self, most: int) -> list[tuple[Frame, float]]:
        """Wait for frames and take up to `most`, one of each source in turn.

        Recorded sources are waited for until there are `most`; live ones are given
        `gather_seconds` for a frame each.

        Returns:
            Frames with the milliseconds that they waited, in order within each source;
            none when everything has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._ended)
            if self._waiting and not self._closed:
                self._gather_more(most)
            taken: list[tuple[Frame, float]] = []
            now = time.monotonic()
            idle = 0
            while len(taken) < most and idle < len(self._lanes):
                lane = self._lanes[self._next]
                self._next = (self._next + 1) % len(self._lanes)
                idle += 1
                if lane.frames:
                    frame, since = lane.frames.popleft()
                    taken.append((frame, 1e3 * (now - since)))
                    idle = 0
            self._changed.notify_all()
            return taken

    def _gather_more(self, most: int) -> None:
        live = any(lane.live for lane in self._lanes)
        arrived = min(lane.frames[0][1] for lane in self._lanes if lane.frames)
        deadline = arrived + self._gather
        while not self._closed and self._waiting < most:
            if not any(self._awaited(lane, deadline) for lane in self._lanes):
                return
            left = deadline - time.monotonic() if live else None
            if left is not None and left <= 0:
                return
            self._changed.wait(left)

    def _awaited(self, lane: _Lane, deadline: float) -> bool:
        """Whether a source could still add a frame to this batch in time."""
        room = 1 if lane.newest else self._room
        return lane.open and len(lane.frames) < room and (not lane.live or lane.due(deadline))

    @property
    def _waiting(self) -> int:
        return sum(len(lane.frames) for lane in self._lanes)

    @property
    def _ended(self) -> bool:
        return not any(lane.open for lane in self._lanes)


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
