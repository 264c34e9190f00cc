"""`/metrics`: the run's counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from foldcam.runtime.system.monitor import Monitor, State
from foldcam.runtime.system.version import version

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_COUNT, _GAUGE = CounterMetricFamily, GaugeMetricFamily
# Kind, name, help, a further label, and the values of a source or sink by that label.
_Row = tuple[type[Any], str, str, str, Callable[[Any], Mapping[str, float]]]
_OF_A_STREAM: tuple[_Row, ...] = (
    (_COUNT, "frames_captured", "Frames that a source delivered.", "",
     lambda stream: {"": stream.captured}),
    (_COUNT, "frames_processed", "Frames that went through the network.", "",
     lambda stream: {"": stream.processed}),
    (_COUNT, "frames_dropped", "Frames lost, by cause.", "cause", lambda stream: stream.drops),
    (_COUNT, "frames_thinned", "Frames left out on purpose, by --every.", "",
     lambda stream: {"": stream.thinned}),
    (_COUNT, "regions_unanswered", "Regions for which the network returned no answer, by cause.",
     "cause", lambda stream: stream.unanswered),
    (_COUNT, "regions_unknown",
     "Regions that are unknown by the model's rule; missing for a model without one.", "",
     lambda stream: {} if stream.unknown is None else {"": stream.unknown}),
    (_COUNT, "source_reconnects", "Times that a source came back.", "",
     lambda stream: {"": stream.reconnects}),
    (_GAUGE, "frame_rate_hertz", "Processed frames per second, of late.", "",
     lambda stream: {"": stream.fps}),
    (_GAUGE, "frame_age_seconds", "Age of the latest processed frame when its result was ready.",
     "", lambda stream: {"": 1e-3 * stream.age_ms}),
    (_GAUGE, "source_state", "1 for what a source is doing.", "state",
     lambda stream: {one.value: float(one.value == stream.state) for one in State}),
)  # fmt: skip
_OF_A_SINK: tuple[_Row, ...] = (
    (_COUNT, "results_written", "Results that a sink took.", "", lambda sink: {"": sink.written}),
    (_COUNT, "results_lost", "Results that a sink did not take, by cause.", "cause",
     lambda sink: sink.drops),
)  # fmt: skip


class Metrics:
    """Everything that Prometheus can ask for; a registry of its own, not the process-wide one."""

    def __init__(
        self, monitor: Monitor, clients: Callable[[], int], healthy: Callable[[], bool]
    ) -> None:
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "foldcam_frame_latency_seconds",
            "From a frame's capture to its results on the live page.",
            ["stream"],
            registry=self._registry,
            buckets=_LATENCY_BUCKETS,
        )
        self._registry.register(_RunCollector(monitor, clients, healthy))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def saw(self, stream: int, milliseconds: float) -> None:
        """A frame arrived, so old."""
        self._latency.labels(str(stream)).observe(1e-3 * milliseconds)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)


class _RunCollector(Collector):
    """Reads the monitor when it is asked; nothing is counted twice."""

    def __init__(
        self, monitor: Monitor, clients: Callable[[], int], healthy: Callable[[], bool]
    ) -> None:
        self._monitor = monitor
        self._clients = clients
        self._healthy = healthy

    def collect(self) -> Iterable[Metric]:
        snapshot = self._monitor.snapshot()
        info = InfoMetricFamily("foldcam", "The program.")
        info.add_metric([], {"version": version()})
        yield info
        yield _gauge("foldcam_up", "1 while frames get through the network.", self._healthy())
        yield _gauge("foldcam_live_clients", "Browsers that watch.", self._clients())
        yield _gauge("foldcam_run_seconds", "Time since the run began.", snapshot.seconds)
        restarts = "Times that the backend was opened again."
        yield _COUNT("foldcam_backend_restarts", restarts, value=float(snapshot.restarts))
        stages = GaugeMetricFamily(
            "foldcam_stage_seconds", "Mean time per frame in a stage.", labels=["stage"]
        )
        for stage, milliseconds in snapshot.stages_ms.items():
            stages.add_metric([stage], 1e-3 * milliseconds)
        yield stages
        yield from _families(_OF_A_STREAM, "source", snapshot.streams)
        yield from _families(_OF_A_SINK, "name", snapshot.sinks)


def _families(rows: tuple[_Row, ...], name: str, each: Sequence[Any]) -> Iterable[Metric]:
    """A family of metrics per row, with the values of all sources or sinks, by their numbers."""
    first = "stream" if name == "source" else "sink"
    for kind, metric, text, label, values in rows:
        family = kind(f"foldcam_{metric}", text, labels=[first, name, *([label] if label else [])])
        for number, status in enumerate(each):
            for further, value in values(status).items():
                own = [further] if label else []
                family.add_metric([str(number), status.name, *own], value)
        yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
