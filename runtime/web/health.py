"""Whether the run does its work: what `/healthz` answers."""

from __future__ import annotations

import threading
import time

from foldcam.runtime.system.monitor import Monitor, Snapshot, State, StreamStatus

LIVE_PATIENCE = 15.0
RECORDED_PATIENCE = 120.0


class Health:
    """Remembers when each stream's frames last got through.

    A run is healthy while frames of at least one stream get through the network: of a live
    one within `LIVE_PATIENCE` seconds, of a recorded one within `RECORDED_PATIENCE`, since
    it is let wait for slow sinks.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._lock = threading.Lock()
        self._moved: dict[int, tuple[int, float]] = {}

    def trouble(self, snapshot: Snapshot | None = None) -> str:
        """Why the run is not healthy now, as a clause; empty if it is. Asked once a second."""
        snapshot = snapshot or self._monitor.snapshot()
        now = time.monotonic()
        if not snapshot.streams:
            return "no source is open yet"
        reasons = [
            self._trouble(index, stream, now) for index, stream in enumerate(snapshot.streams)
        ]
        if not all(reasons):
            return ""
        named = zip(snapshot.streams, reasons, strict=True)
        return "; ".join(f"{stream.name}: {reason}" for stream, reason in named)

    def _trouble(self, index: int, stream: StreamStatus, now: float) -> str:
        """Why no frames of a stream get through; empty if they do."""
        with self._lock:
            count, since = self._moved.get(index, (0, now))
            if stream.processed != count or index not in self._moved:
                count, since = stream.processed, now
                self._moved[index] = (count, since)
        if stream.state != State.streaming.value:
            return f"{stream.state}{f' ({stream.reason})' if stream.reason else ''}"
        silent = now - since
        if not stream.live:
            return "" if silent < RECORDED_PATIENCE else _silence(silent)
        if not count:
            return "no frame has been processed yet"
        return "" if silent < LIVE_PATIENCE else _silence(silent)


def _silence(seconds: float) -> str:
    return f"no frame was processed for {seconds:.0f} s"
