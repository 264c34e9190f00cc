"""What a run is doing, for whoever wants to look: status line, live page, metrics, watchdog.

The pipeline's threads write into a `Monitor`; readers take a `Snapshot`, which no thread
changes any more.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from foldcam.runtime.system.redaction import redacted, redacted_value

STAGES = ("source", "wait", "preprocess", "inference", "render", "sinks")
_LOW_MS = 1e-3
_HIGH_MS = 1e7
_STEP = 1.01


class Percentiles:
    """A histogram of durations in steps of one percent.

    Durations are exact to 1 % between a microsecond and three hours, however many
    there are.
    """

    def __init__(self) -> None:
        bins = math.ceil(math.log(_HIGH_MS / _LOW_MS) / math.log(_STEP)) + 1
        # Written to, not only set aside: pages that rare durations touch for the first time
        # would be memory that grows for days.
        self._counts = np.full(bins, 0, np.int64)
        self._sum = 0.0
        self.count = 0
        self.most = 0.0
        """The longest in milliseconds, not rounded to a step."""

    def add(self, milliseconds: float) -> None:
        """Count one duration in milliseconds."""
        clamped = min(max(milliseconds, _LOW_MS), _HIGH_MS)
        self._counts[round(math.log(clamped / _LOW_MS) / math.log(_STEP))] += 1
        self._sum += milliseconds
        self.most = max(self.most, milliseconds)
        self.count += 1

    def at(self, share: float) -> float:
        """The duration in milliseconds below which `share` in [0, 1] of all lie; 0.0 of none."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(share * self.count))
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(_LOW_MS * _STEP**index)

    @property
    def mean(self) -> float:
        """Mean in milliseconds; 0.0 of none."""
        return self._sum / self.count if self.count else 0.0


class Rate:
    """Events per second over the most recent ones."""

    def __init__(self, window: int = 64) -> None:
        self._times: deque[float] = deque(maxlen=window)

    def tick(self) -> None:
        """Count one event now."""
        self._times.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """0.0 until there are two events."""
        if len(self._times) < 2:
            return 0.0
        spent = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / spent if spent > 0 else 0.0


class State(str, Enum):
    """What a source is doing."""

    connecting = "connecting"
    streaming = "streaming"
    stalled = "stalled"
    backoff = "backoff"
    stopped = "stopped"


Listener = Callable[[str, State, str], None]
"""Called with a source's name, its new state, and why it is not streaming."""


class Cause(str, Enum):
    """Why a frame was not processed, or a result not written."""

    overtaken = "overtaken"
    """A newer frame of a live source came before the network was free."""
    skipped = "skipped"
    """`--every` left it out, on purpose; counted apart, as `StreamStatus.thinned`."""
    unreadable = "unreadable"
    """The source delivered something that is no picture."""
    failed = "failed"
    """The network failed on it."""
    sink_behind = "sink behind"
    """A sink was still busy with earlier results."""
    sink_failed = "sink failed"
    """A sink could not write it."""


@dataclass(frozen=True)
class StreamStatus:
    """One source.

    Attributes:
        since: seconds that it has been doing so.
        reason: why it is not streaming, as a clause; empty if it is.
        drops: frames lost, by cause; causes that did not occur are left out.
        thinned: frames left out on purpose, by `--every`; they are captured, and not lost.
        unanswered: regions of its frames for which the network returned no answer, by cause.
        unknown: regions of its frames that are unknown; None where nothing can be.
        age_ms: age of the latest processed frame when its result was ready, milliseconds.
    """

    name: str
    live: bool
    state: str
    since: float
    reason: str
    captured: int
    processed: int
    drops: dict[str, int]
    reconnects: int
    fps: float
    age_ms: float
    unanswered: dict[str, int] = field(default_factory=dict)
    unknown: int | None = None
    thinned: int = 0


@dataclass(frozen=True)
class SinkStatus:
    """One sink: results written, and results lost by cause."""

    name: str
    written: int
    drops: dict[str, int]
    reason: str


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment.

    Attributes:
        fps: the recent rate of all sources together, in frames per second.
        latency_ms: `p50`, `p90`, `p99`, `max` from a frame's capture to its result. Frames of
            files wait in queues before the network, so that theirs says little.
        network_ms: `p50` and `p99` of the network's time per image; a batch's is divided by its
            images.
        stages_ms: mean of every stage of `STAGES` in milliseconds per frame.
    """

    seconds: float
    frames: int
    fps: float
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    restarts: int
    streams: tuple[StreamStatus, ...]
    sinks: tuple[SinkStatus, ...]
    network_ms: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass
class _Stream:
    name: str
    live: bool
    state: State = State.connecting
    since: float = field(default_factory=time.monotonic)
    reason: str = ""
    captured: int = 0
    processed: int = 0
    drops: Counter[Cause] = field(default_factory=Counter)
    reconnects: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    unknown: int | None = None
    rate: Rate = field(default_factory=Rate)
    age_ms: float = 0.0


@dataclass
class _Sink:
    name: str
    written: int = 0
    drops: Counter[Cause] = field(default_factory=Counter)
    reason: str = ""

    def status(self) -> SinkStatus:
        return SinkStatus(self.name, self.written, _by_cause(self.drops), self.reason)


class Monitor:
    """Counts what happens in a run; every method may be called from any thread.

    Everything that shows a run reads it here, so credentials are taken out on the way in.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._streams: list[_Stream] = []
        self._sinks: list[_Sink] = []
        self._stages = {stage: Percentiles() for stage in STAGES}
        self._latency = Percentiles()
        self._network = Percentiles()
        self._rate = Rate()
        self._frames = 0
        self._restarts = 0
        self._listeners: list[Listener] = []

    def add_stream(self, name: str, live: bool) -> int:
        """Register a source; the number returned is `Frame.stream` of its frames."""
        with self._lock:
            self._streams.append(_Stream(redacted_value(name), live))
            return len(self._streams) - 1

    def add_sink(self, name: str) -> int:
        """Register a sink; the number returned names it to `wrote` and `lost`."""
        with self._lock:
            self._sinks.append(_Sink(redacted_value(name)))
            return len(self._sinks) - 1

    def state(self, stream: int, state: State, reason: str = "") -> None:
        """A source does something else from now on; `reason` is a clause."""
        reason = redacted(reason)
        with self._lock:
            source = self._streams[stream]
            before = source.state
            if state is State.streaming and before in (State.connecting, State.backoff):
                source.reconnects += source.captured > 0
            if state is not before:
                source.since = time.monotonic()
            source.state, source.reason = state, reason
            listeners = list(self._listeners) if state is not before else []
        for listener in listeners:
            listener(source.name, state, reason)

    def listen(self, listener: Listener) -> None:
        """Call `listener(source, state, reason)` whenever a source changes its state.

        It is called by the source's own thread: it must be quick and must not raise.
        """
        with self._lock:
            self._listeners.append(listener)

    def captured(self, stream: int, milliseconds: float) -> None:
        """A source delivered a frame after so many milliseconds of work or waiting."""
        with self._lock:
            self._streams[stream].captured += 1
            self._stages["source"].add(milliseconds)

    def dropped(self, stream: int, cause: Cause, count: int = 1, *, early: bool = False) -> None:
        """Frames of a source were lost; `early`, before `captured` counted them."""
        with self._lock:
            source = self._streams[stream]
            source.drops[cause] += count
            source.captured += count if early else 0

    def processed(
        self,
        stream: int,
        age_ms: float,
        stages_ms: dict[str, float],
        network_ms: Iterable[float] = (),
    ) -> None:
        """A frame's results are ready.

        Args:
            age_ms: milliseconds since it was captured.
            stages_ms: milliseconds in some of `STAGES`.
            network_ms: the network's milliseconds for each image of the frame.
        """
        with self._lock:
            source = self._streams[stream]
            source.processed += 1
            source.age_ms = age_ms
            source.rate.tick()
            self._frames += 1
            self._rate.tick()
            self._latency.add(age_ms)
            for milliseconds in network_ms:
                self._network.add(milliseconds)
            for stage, milliseconds in stages_ms.items():
                self._stages[stage].add(milliseconds)

    def unanswered(self, stream: int, cause: str, count: int) -> None:
        """For so many regions of a frame the network returned no answer."""
        with self._lock:
            self._streams[stream].unanswered[cause] += count

    def unknown(self, stream: int, count: int) -> None:
        """So many regions of a frame are unknown, of a model that has a rule for that."""
        with self._lock:
            source = self._streams[stream]
            source.unknown = (source.unknown or 0) + count

    def wrote(self, sink: int, milliseconds: float) -> None:
        """A sink took one frame's results, in so many milliseconds."""
        with self._lock:
            self._sinks[sink].written += 1
            self._stages["sinks"].add(milliseconds)

    def rendered(self, milliseconds: float) -> None:
        """A picture was drawn."""
        with self._lock:
            self._stages["render"].add(milliseconds)

    def lost(
        self, sink: int, cause: Cause, reason: str = "", count: int = 1, *, late: bool = False
    ) -> None:
        """A sink did not take one frame's results."""
        reason = redacted(reason)
        with self._lock:
            status = self._sinks[sink]
            status.drops[cause] += count
            status.reason = reason or status.reason
            if late:
                status.written = max(0, status.written - count)

    def sink(self, sink: int) -> SinkStatus:
        """One sink as it is now."""
        with self._lock:
            return self._sinks[sink].status()

    def restarted(self) -> None:
        """The backend was opened again."""
        with self._lock:
            self._restarts += 1

    def snapshot(self) -> Snapshot:
        """The run as it is now."""
        with self._lock:
            now = time.monotonic()
            return Snapshot(
                seconds=now - self._begun,
                frames=self._frames,
                fps=self._rate.per_second,
                latency_ms={
                    "p50": self._latency.at(0.5),
                    "p90": self._latency.at(0.9),
                    "p99": self._latency.at(0.99),
                    "max": self._latency.most,
                },
                stages_ms={stage: spent.mean for stage, spent in self._stages.items()},
                restarts=self._restarts,
                streams=tuple(
                    StreamStatus(
                        name=source.name,
                        live=source.live,
                        state=source.state.value,
                        since=now - source.since,
                        reason=source.reason,
                        captured=source.captured,
                        processed=source.processed,
                        drops=_by_cause(source.drops),
                        reconnects=source.reconnects,
                        fps=source.rate.per_second,
                        age_ms=source.age_ms,
                        unanswered=dict(source.unanswered),
                        unknown=source.unknown,
                        thinned=source.drops[Cause.skipped],
                    )
                    for source in self._streams
                ),
                sinks=tuple(sink.status() for sink in self._sinks),
                network_ms={"p50": self._network.at(0.5), "p99": self._network.at(0.99)},
            )


def _by_cause(drops: Counter[Cause]) -> dict[str, int]:
    lost = [cause for cause in Cause if cause is not Cause.skipped]
    return {cause.value: drops[cause] for cause in lost if drops[cause]}
