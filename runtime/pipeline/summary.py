"""The status during a run and the summary at its end."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foldcam.runtime.images.listing import counted
from foldcam.runtime.model.result import Result
from foldcam.runtime.pipeline.sink_thread import Outcome
from foldcam.runtime.sources import Skip, Source
from foldcam.runtime.sources.base import left_out_of
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.system.redaction import redacted_value

MAX_LABELS = 10
MAX_COUNTED = 100_000
"""Labels that are counted at most: of more, only those that are there already."""


@dataclass
class Progress:
    """A run so far.

    Attributes:
        expected: frames that the sources expect to deliver, None if unknown.
        answer: voted or nearest label of the latest region, or its estimate.
    """

    expected: int | None
    monitor: Monitor
    frames: int = 0
    answer: str = ""
    continuous: bool = False
    classified: bool = False


@dataclass(frozen=True)
class Summary:
    """A finished run.

    Attributes:
        seconds: from the first frame's request to the last sink.
        latency_ms: `p50` and `p99` from a frame's capture to its results: a figure for live
            sources, since a file's frames wait in queues.
        stages_ms: mean milliseconds per frame of every stage.
        labels: the most frequent nearest labels, with the number of their regions; unknown
            regions are not among them.
        estimate: `mean`, `low` and `high` over the regions, None for a model of labels.
        streams: one per source: whether it is live, frames captured and processed, drops by
            cause, `thinned` frames that `--every` left out on purpose, regions without an answer
            by cause, reconnects.
        empty_boxes: regions that lay outside of their frame, or had no area.
        left_out: files in folders and patterns that are no pictures: `reason`, `count` and a
            few `examples` of each kind.
        failures: those of them that must not be: results of a recorded source were lost, or
            every result, or the sink had failed at the end.
        unanswered: regions for which the network returned no answer, by cause.
        no_evidence: those of them in which nothing speaks for it: their maps are blank.
        unknown: those of the regions with an answer that are unknown; None where the model has
            no rule for that.
        broken: one sentence where the model is no longer, or never was, of use: no frame has
            an answer, or the last ones of a live run have none; None where it is.
        network_ms: `p50` and `p99` of the network's time per image.
        other_size: of a model that takes whole frames, those of another size, which were resized
            to it first; None for any other model.
        accepted_wrong: what of the model's answers to its probe pictures is wrong and was
            accepted; None where nothing is known to be.
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
    streams: list[dict[str, Any]] = field(default_factory=list)
    sinks: list[dict[str, Any]] = field(default_factory=list)
    restarts: int = 0
    empty_boxes: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unanswered: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    no_evidence: int = 0
    unknown: int | None = None
    broken: str | None = None
    classified: bool = False
    network_ms: dict[str, float] = field(default_factory=dict)
    other_size: int | None = None
    accepted_wrong: str | None = None

    @property
    def live(self) -> bool:
        """Whether a source was live, so that the time from capture to results matters."""
        return any(stream["live"] for stream in self.streams)

    @property
    def thinned(self) -> int:
        """Frames of all sources that `--every` left out on purpose."""
        return sum(stream["thinned"] for stream in self.streams)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without credentials."""
        document: dict[str, Any] = redacted_value(asdict(self))
        return document


class Tally:
    """Counts labels, frames and times in memory that does not grow with the run.

    Args:
        progress: is kept up to date.
        frame: the size that the model takes, of a model of whole frames.
    """

    def __init__(self, progress: Progress, frame: tuple[int, int] | None = None) -> None:
        self._frame = frame
        self.other_size = None if frame is None else 0
        self._lock = threading.Lock()
        self._labels: Counter[str] = Counter()
        self._count, self._sum = 0, 0.0
        self._low, self._high = math.inf, -math.inf
        self.answered = self.no_evidence = 0
        self.progress = progress

    def add(self, results: Sequence[Result]) -> None:
        """One frame's results."""
        with self._lock:
            for result in results:
                if not result.valid:
                    continue
                self.answered += 1
                self.no_evidence += result.no_evidence
                if result.estimate is not None:
                    self._estimated(result.estimate)
                elif result.unknown:
                    continue
                elif result.labels[0] in self._labels or len(self._labels) < MAX_COUNTED:
                    self._labels[result.labels[0]] += 1
            self.progress.frames += 1
            if self.other_size is not None:
                self.other_size += any(result.frame_wh != self._frame for result in results)
            if results:
                self.progress.answer = (results[-1].vote or results[-1]).answer
                self.progress.continuous = results[-1].estimate is not None
                self.progress.classified = results[-1].scores is not None

    def labels(self) -> dict[str, int]:
        """The most frequent nearest labels."""
        with self._lock:
            return dict(self._labels.most_common(MAX_LABELS))

    def estimate(self) -> dict[str, float] | None:
        """Mean and range of the estimates; None if there are none that are finite."""
        with self._lock:
            if not self._count:
                return None
            return {"mean": self._sum / self._count, "low": self._low, "high": self._high}

    def _estimated(self, value: float) -> None:
        if math.isfinite(value):
            self._count, self._sum = self._count + 1, self._sum + value
            self._low, self._high = min(self._low, value), max(self._high, value)


def summarized(
    tally: Tally,
    monitor: Monitor,
    sources: Sequence[Source],
    *,
    outcomes: Sequence[Outcome],
    interrupted: bool,
    seconds: float,
    empty_boxes: int,
    broken: str | None,
    accepted_wrong: str | None = None,
) -> Summary:
    """The end of a run in numbers."""
    snapshot = monitor.snapshot()
    unanswered: Counter[str] = Counter()
    for stream in snapshot.streams:
        unanswered.update(stream.unanswered)
    unknown = [stream.unknown for stream in snapshot.streams if stream.unknown is not None]
    frames = tally.progress.frames
    return Summary(
        source=", ".join(source.name for source in sources),
        frames=frames,
        skipped=[skip for source in sources for skip in source.skipped],
        interrupted=interrupted,
        seconds=round(seconds, 3),
        fps=round(frames / seconds, 3) if seconds > 0 else 0.0,
        latency_ms={name: round(snapshot.latency_ms[name], 3) for name in ("p50", "p99")},
        network_ms={name: round(spent, 3) for name, spent in snapshot.network_ms.items()},
        stages_ms={stage: round(spent, 3) for stage, spent in snapshot.stages_ms.items()},
        labels=tally.labels(),
        outputs=[outcome.output for outcome in outcomes if outcome.output],
        losses=[outcome.loss for outcome in outcomes if outcome.loss],
        failures=[outcome.loss for outcome in outcomes if outcome.failed],
        estimate=tally.estimate(),
        streams=[
            {
                "source": stream.name,
                "live": stream.live,
                "captured": stream.captured,
                "processed": stream.processed,
                "drops": stream.drops,
                "thinned": stream.thinned,
                "unanswered": stream.unanswered,
                "unknown": stream.unknown,
                "reconnects": stream.reconnects,
            }
            for stream in snapshot.streams
        ],
        sinks=[
            {"sink": sink.name, "written": sink.written, "drops": sink.drops, "reason": sink.reason}
            for sink in snapshot.sinks
        ],
        restarts=snapshot.restarts,
        empty_boxes=empty_boxes,
        left_out=counted(item for source in sources for item in left_out_of(source)),
        unanswered=dict(unanswered),
        answered=tally.answered,
        no_evidence=tally.no_evidence,
        unknown=sum(unknown) if unknown else None,
        broken=broken,
        accepted_wrong=accepted_wrong,
        classified=tally.progress.classified,
        other_size=tally.other_size,
    )


def unread(sources: Sequence[Source], summary: Summary) -> list[str]:
    """The files and folders that were named and of which nothing was read, though others were."""
    if summary.interrupted:
        return []
    return [
        source.name
        for source, stream in zip(sources, summary.streams, strict=True)
        if not source.live and not stream["processed"] and source.skipped
    ]


def nothing_usable(sources: Sequence[Source]) -> str:
    """One sentence about why no frame came."""
    names = ", ".join(source.name for source in sources)
    skipped = [skip for source in sources for skip in source.skipped]
    if not skipped:
        return f"{names} has no usable image."
    first = skipped[0]
    more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return f"{names} has no usable image: {first.path}: {first.reason}{more}."
