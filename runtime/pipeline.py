"""From source through model to sinks."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.errors import FoldcamError
from runtime.model import Result
from runtime.preprocess import Image
from runtime.seen import Seen
from runtime.sinks import NotWritten, Sink, StopRequested
from runtime.sources import Frame, Skip, Source
from runtime.stopping import StopSignal
from runtime.style import Style
from runtime.timing import Percentiles, Rate

STAGES = ("source", "preprocess", "inference", "sinks")
MAX_LABELS = 10


@dataclass
class Progress:
    """A run so far.

    Attributes:
        expected: frames that the source expects to deliver, None if unknown.
        frames: processed.
        answer: nearest label of the latest frame, or its estimate.
        continuous: whether it is an estimate.
        latency: from a frame's decoding to its last sink, in milliseconds.
        rate: of the latest frames.
        stages: milliseconds per frame of every stage in `STAGES`; `sinks` holds the
            rendering too.
    """

    expected: int | None
    frames: int = 0
    answer: str = ""
    continuous: bool = False
    latency: Percentiles = field(default_factory=Percentiles)
    rate: Rate = field(default_factory=Rate)
    stages: dict[str, Percentiles] = field(
        default_factory=lambda: {stage: Percentiles() for stage in STAGES}
    )


@dataclass(frozen=True)
class Summary:
    """A finished run.

    Attributes:
        source: what was read.
        frames: processed.
        skipped: what could not be read, and why.
        interrupted: whether the user stopped it.
        seconds: from the first frame's request to the last sink.
        fps: frames per second over the whole run.
        latency_ms: `p50` and `p99` from a frame's decoding to its last sink.
        stages_ms: mean milliseconds per frame of every stage.
        labels: the most frequent nearest labels, with the number of their frames.
        outputs: what was written.
        estimate: `mean`, `low` and `high` over the frames, None for a model of labels.
    """

    source: str
    frames: int
    skipped: list[Skip]
    interrupted: bool
    seconds: float
    fps: float
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    labels: dict[str, int]
    outputs: list[str]
    estimate: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def run(
    source: Source,
    model: Callable[[Image], Result],
    sinks: Sequence[Sink] = (),
    on_progress: Callable[[Progress], None] | None = None,
    *,
    style: Style | None = None,
) -> Summary:
    """Give every frame to the model and its result to every sink, in order.

    SIGINT and SIGTERM end the run after the current frame: the sinks are closed and
    what they wrote is complete.

    Args:
        source: closed at the end, as the sinks are.
        model: such as a `FoldedModel`.
        sinks: each gets every frame.
        on_progress: called after every frame.
        style: of overlays.

    Raises:
        FoldcamError: the source delivered nothing, or the model or a sink failed.
    """
    style = style or Style()
    progress = Progress(source.frames)
    labels: Counter[str] = Counter()
    estimates = _Estimates()
    interrupted = False
    start = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        stack.enter_context(source)
        for sink in sinks:
            stack.enter_context(sink)
        frames = iter(source)
        try:
            while not stop.requested:
                asked = time.monotonic()
                frame = next(frames, None)
                if frame is None:
                    break
                progress.stages["source"].add(1e3 * (time.monotonic() - asked))
                result = model(frame.image)
                _to_sinks(sinks, frame, result, style, progress)
                if result.estimate is None:
                    labels[result.labels[0]] += 1
                else:
                    estimates.add(result.estimate)
                if on_progress is not None:
                    on_progress(progress)
        except StopRequested:
            interrupted = True
        interrupted = interrupted or stop.requested
        if not progress.frames and not interrupted:
            raise FoldcamError(_nothing_usable(source))
    seconds = time.monotonic() - start
    return Summary(
        source=source.name,
        frames=progress.frames,
        skipped=list(source.skipped),
        interrupted=interrupted,
        seconds=round(seconds, 3),
        fps=round(progress.frames / seconds, 3) if seconds > 0 else 0.0,
        latency_ms={
            "p50": round(progress.latency.at(0.5), 3),
            "p99": round(progress.latency.at(0.99), 3),
        },
        stages_ms={stage: round(spent.mean, 3) for stage, spent in progress.stages.items()},
        labels=dict(labels.most_common(MAX_LABELS)),
        outputs=[sink.output for sink in sinks if sink.output],
        estimate=estimates.summary(),
    )


class _Estimates:
    """Mean and range of a stream of estimates; those that are not finite are left out."""

    def __init__(self) -> None:
        self._count, self._sum = 0, 0.0
        self._low, self._high = math.inf, -math.inf

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._count, self._sum = self._count + 1, self._sum + value
            self._low, self._high = min(self._low, value), max(self._high, value)

    def summary(self) -> dict[str, float] | None:
        if not self._count:
            return None
        return {"mean": self._sum / self._count, "low": self._low, "high": self._high}


def _to_sinks(
    sinks: Sequence[Sink],
    frame: Frame,
    result: Result,
    style: Style,
    progress: Progress,
) -> None:
    seen = Seen(frame, [result], style)
    begun = time.monotonic()
    # A sink that asks to stop has seen this frame, and so shall the others.
    stopped: StopRequested | None = None
    for sink in sinks:
        try:
            sink.write(seen)
        except StopRequested as request:
            stopped = request
        except NotWritten:
            continue  # the sink has said why
    now = time.monotonic()
    progress.stages["preprocess"].add(result.timings.preprocess_ms)
    progress.stages["inference"].add(result.timings.inference_ms)
    progress.stages["sinks"].add(1e3 * (now - begun))
    progress.latency.add(1e3 * (now - frame.captured))
    progress.rate.tick()
    progress.frames += 1
    progress.answer = result.answer
    progress.continuous = result.estimate is not None
    if stopped is not None:
        raise stopped


def _nothing_usable(source: Source) -> str:
    if not source.skipped:
        return f"{source.name} has no usable image."
    first = source.skipped[0]
    more = f", and {len(source.skipped) - 1} more" if len(source.skipped) > 1 else ""
    return f"{source.name} has no usable image: {first.path}: {first.reason}{more}."
