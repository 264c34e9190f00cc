"""The newest frame of every stream: written by the run, read by whoever looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from foldcam.runtime.model.frame_results import FrameResults


@dataclass(frozen=True)
class Newest:
    """The newest frame of one stream.

    Attributes:
        arrived: `time.monotonic()` when the page was given it.
    """

    item: FrameResults
    arrived: float
    count: int


class Latest:
    """Keeps one frame per stream; `put` never waits for a reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[int, Newest] = {}
        self._on_change: Callable[[], None] | None = None

    def put(self, item: FrameResults) -> float:
        """Replace a stream's newest frame; returns its age in milliseconds."""
        now = time.monotonic()
        stream = item.frame.stream
        with self._lock:
            before = self._newest.get(stream)
            self._newest[stream] = Newest(item, now, before.count + 1 if before else 1)
            on_change, self._on_change = self._on_change, None
        if on_change is not None:
            on_change()
        return 1e3 * (now - item.frame.captured)

    def of(self, stream: int) -> Newest | None:
        """The newest frame of a stream; None if there was none."""
        with self._lock:
            return self._newest.get(stream)

    def all(self) -> list[Newest]:
        """The newest frame of every stream that has had one, by number."""
        with self._lock:
            return [self._newest[stream] for stream in sorted(self._newest)]

    def call_at_next(self, on_change: Callable[[], None] | None) -> None:
        """Have the next `put` call this once, in its thread; None: no longer."""
        with self._lock:
            self._on_change = on_change
