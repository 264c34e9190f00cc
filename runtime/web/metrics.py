"""`/metrics`: the run's counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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

from foldcam.runtime.system.monitor import Monitor, Snapshot, State
from foldcam.runtime.system.version import version

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


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
        yield _counter(
            "foldcam_backend_restarts", "Times that the backend was opened again.",
            snapshot.restarts,
        )  # fmt: skip
        stages = GaugeMetricFamily(
            "foldcam_stage_seconds", "Mean time per frame in a stage.", labels=["stage"]
        )
        for stage, milliseconds in snapshot.stages_ms.items():
            stages.add_metric([stage], 1e-3 * milliseconds)
        yield stages
        yield from _of_streams(snapshot)
        yield from _of_sinks(snapshot)


def _of_streams(snapshot: Snapshot) -> Iterable[Metric]:
    labels = ["stream", "source"]
    captured = CounterMetricFamily(
        "foldcam_frames_captured", "Frames that a source delivered.", labels=labels
    )
    processed = CounterMetricFamily(
        "foldcam_frames_processed", "Frames that went through the network.", labels=labels
    )
    dropped = CounterMetricFamily(
        "foldcam_frames_dropped", "Frames lost, by cause.", labels=[*labels, "cause"]
    )
    thinned = CounterMetricFamily(
        "foldcam_frames_thinned", "Frames left out on purpose, by --every.", labels=labels
    )
    unanswered = CounterMetricFamily(
        "foldcam_regions_unanswered",
        "Regions for which the network returned no answer, by cause.",
        labels=[*labels, "cause"],
    )
    unknown = CounterMetricFamily(
        "foldcam_regions_unknown",
        "Regions that are unknown by the model's rule; missing for a model without one.",
        labels=labels,
    )
    reconnects = CounterMetricFamily(
        "foldcam_source_reconnects", "Times that a source came back.", labels=labels
    )
    rate = GaugeMetricFamily(
        "foldcam_frame_rate_hertz", "Processed frames per second, of late.", labels=labels
    )
    age = GaugeMetricFamily(
        "foldcam_frame_age_seconds",
        "Age of the latest processed frame when its result was ready.",
        labels=labels,
    )
    state = GaugeMetricFamily(
        "foldcam_source_state", "1 for what a source is doing.", labels=[*labels, "state"]
    )
    for number, stream in enumerate(snapshot.streams):
        values = [str(number), stream.name]
        captured.add_metric(values, stream.captured)
        processed.add_metric(values, stream.processed)
        thinned.add_metric(values, stream.thinned)
        reconnects.add_metric(values, stream.reconnects)
        rate.add_metric(values, stream.fps)
        age.add_metric(values, 1e-3 * stream.age_ms)
        for cause, count in stream.drops.items():
            dropped.add_metric([*values, cause], count)
        if stream.unknown is not None:
            unknown.add_metric(values, stream.unknown)
        for cause, count in stream.unanswered.items():
            unanswered.add_metric([*values, cause], count)
        for one in State:
            state.add_metric([*values, one.value], float(one.value == stream.state))
    return (
        captured, processed, dropped, thinned, unanswered, unknown, reconnects, rate, age, state,
    )  # fmt: skip


def _of_sinks(snapshot: Snapshot) -> Iterable[Metric]:
    labels = ["sink", "name"]
    written = CounterMetricFamily(
        "foldcam_results_written", "Results that a sink took.", labels=labels
    )
    lost = CounterMetricFamily(
        "foldcam_results_lost", "Results that a sink did not take, by cause.",
        labels=[*labels, "cause"],
    )  # fmt: skip
    for number, sink in enumerate(snapshot.sinks):
        written.add_metric([str(number), sink.name], sink.written)
        for cause, count in sink.drops.items():
            lost.add_metric([str(number), sink.name, cause], count)
    return written, lost


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))
