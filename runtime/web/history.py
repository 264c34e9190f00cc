"""Latency and drops over time, in memory that does not grow: minutes of the last day."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Any

from foldcam.runtime.system.monitor import Percentiles, Snapshot

SECONDS = 300
MINUTES = 1440
_TOLERANCE = 0.25
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class _Span:
    """The span of time that a point stands for, while it lasts."""

    def __init__(self, length: float, points: int, begun: float) -> None:
        self.length = length
        self.begun = begun
        self.points: deque[dict[str, Any]] = deque(maxlen=points)
        self.latency = Percentiles()
        self.before: Counter[str] = Counter()

    def close(self, now: float, drops: Counter[str]) -> dict[str, Any]:
        spent = max(now - self.begun, 1e-9)
        point = {
            "at": round(now, 3),
            "fps": round(self.latency.count / spent, 3),
            **{name: round(self.latency.at(share), 3) for name, share in _QUANTILES.items()},
            "max": round(self.latency.most, 3),
            "drops": dict(drops - self.before),
        }
        self.points.append(point)
        self.begun, self.before, self.latency = now, Counter(drops), Percentiles()
        return point


class History:
    """Points every second for five minutes, and every minute for a day.

    A point has `at` (seconds since the run began, its end), `fps`, `p50`, `p90`, `p99` and
    `max` (milliseconds from capture to the page) and `drops` (frames lost in it, by cause).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans = (_Span(1.0, SECONDS, 0.0), _Span(60.0, MINUTES, 0.0))

    def saw(self, milliseconds: float) -> None:
        """A frame arrived, so old."""
        with self._lock:
            for span in self._spans:
                span.latency.add(milliseconds)

    def sample(self, snapshot: Snapshot) -> dict[str, Any] | None:
        """Close the points whose time is over; returns the newest second's, if it was one."""
        drops: Counter[str] = Counter()
        for stream in snapshot.streams:
            drops.update(stream.drops)
        newest = None
        with self._lock:
            for span in self._spans:
                # Ticks come a little early or late, and a point must not stand for two.
                if snapshot.seconds - span.begun >= span.length - _TOLERANCE:
                    point = span.close(snapshot.seconds, drops)
                    newest = point if span is self._spans[0] else newest
        return newest

    def to_dict(self) -> dict[str, Any]:
        """Both resolutions, oldest first."""
        with self._lock:
            return {"seconds": list(self._spans[0].points), "minutes": list(self._spans[1].points)}
