"""Two live sources in one run: batched, never mixed, and one is lost without the other noticing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.benchmarks.studies.reliability.stream import Stream
from foldcam.runtime.backends import open_backend
from foldcam.runtime.model.folded_model import FoldedModel, ForwardPass
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.pipeline.summary import Summary
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor

SECONDS = {False: 3.0, True: 20.0}
"""Of each of the three parts: both, one, both again."""
SIZE = "64"
RATE = 20
COLORS = ("red", "blue")
FLOW = FlowOptions(stall_seconds=2.0, backoff_seconds=0.1, backoff_most_seconds=0.5, wait=True)
KEPT_PACE = 0.9


class CountingModel(FoldedModel):
    """A model that remembers how many rows its forward passes had."""

    def __init__(self, path: Path) -> None:
        super().__init__(open_backend(path, "cpu", 1))
        self.passes: Counter[int] = Counter()

    def forward(self, batch: Batch, query: npt.NDArray[np.float32] | None = None) -> ForwardPass:
        """One forward pass."""
        self.passes[len(batch.rows)] += 1
        return super().forward(batch, query)


@dataclass
class _Camera:
    frames: int = 0
    mixed: int = 0
    out_of_order: int = 0
    latest: int = -1
    ages: list[float] = field(default_factory=list)


class Watch(Sink):
    """A sink that knows each camera by its colour."""

    name = "watch"
    may_skip = False
    output: str | None = None

    def __init__(self) -> None:
        self.cameras = [_Camera() for _ in COLORS]

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def write(self, seen: FrameResults) -> None:
        """Look at one frame."""
        frame, now = seen.frame, time.monotonic()
        camera = self.cameras[frame.stream]
        means = frame.image.reshape(-1, 3).mean(axis=0)
        camera.mixed += COLORS[frame.stream] != ("red" if means[0] > means[2] else "blue")
        camera.out_of_order += frame.index <= camera.latest
        camera.latest = frame.index
        camera.frames += 1
        camera.ages.append(1e3 * (now - frame.captured))


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Both cameras, then one, then both again."""
    seconds = SECONDS[full]
    watch, monitor, stop = Watch(), Monitor(), threading.Event()
    done: list[Summary] = []
    pictures = [f"color=c={color}:size=160x120:rate={RATE}" for color in COLORS]
    model = CountingModel(demo_model(folder.parent / "model", SIZE))
    with Stream(pictures[0]) as first, Stream(pictures[1]) as second, model:
        first.restore()
        second.restore()
        sources = [open_source(each.uri, flow=FLOW) for each in (first, second)]
        runner = threading.Thread(
            target=lambda: done.append(
                run(sources, model, [watch], flow=FLOW, monitor=monitor, stop=stop)
            )
        )
        runner.start()
        try:
            _wait(lambda: min(camera.frames for camera in watch.cameras) > RATE // 2)
            progress("parts", 0, 3)
            both = _during(watch, seconds)
            passes = Counter(model.passes)
            progress("parts", 1, 3)
            second.cut()
            one = _during(watch, seconds)
            progress("parts", 2, 3)
            before = watch.cameras[1].frames
            back = second.restore()
            _wait(lambda: watch.cameras[1].frames > before)
            recovery = time.monotonic() - back
            again = _during(watch, seconds)
            progress("parts", 3, 3)
        finally:
            stop.set()
            runner.join(30.0)
    if not done:
        raise FoldcamError("The run did not end within 30 s of being stopped.")
    pace = one[0] / both[0] if both[0] else 0.0
    cameras = watch.cameras
    return {
        "passed": (
            not any(camera.mixed or camera.out_of_order for camera in cameras)
            and passes[2] > 0
            and pace >= KEPT_PACE
            and again[1] > 0
        ),
        "settings": {"seconds": seconds, "rate": RATE, "kept_pace": KEPT_PACE},
        "frames": [camera.frames for camera in cameras],
        "mixed": sum(camera.mixed for camera in cameras),
        "out_of_order": sum(camera.out_of_order for camera in cameras),
        "share_of_passes_with_both": round(passes[2] / max(1, sum(passes.values())), 3),
        "fps": {
            "both": [round(each, 2) for each in both],
            "second_lost": [round(each, 2) for each in one],
            "both_again": [round(each, 2) for each in again],
        },
        "pace_kept": round(pace, 3),
        "age_ms": [
            {
                "p50": round(float(np.median(c.ages)), 1),
                "p99": round(float(np.quantile(c.ages, 0.99)), 1),
            }
            for c in cameras
        ],
        "recovery_seconds": round(recovery, 3),
    }


def _during(watch: Watch, seconds: float) -> list[float]:
    """Frames per second of each camera over so long."""
    begun = time.monotonic()
    before = [camera.frames for camera in watch.cameras]
    time.sleep(seconds)
    spent = time.monotonic() - begun
    return [
        (camera.frames - count) / spent for camera, count in zip(watch.cameras, before, strict=True)
    ]


def _wait(ready: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise FoldcamError(f"A camera delivered nothing within {seconds:g} s.")
        time.sleep(0.02)


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    ages = ", ".join(f"{each['p50']:.0f} and {each['p99']:.0f} ms" for each in document["age_ms"])
    return [
        ("two cameras: frames", " and ".join(map(str, document["frames"]))),
        ("frames taken for the other camera's", str(document["mixed"])),
        ("out of order", str(document["out_of_order"])),
        ("forward passes that served both", f"{document['share_of_passes_with_both']:.0%}"),
        ("the first's pace while the second was cut", f"{document['pace_kept']:.0%}"),
        ("age of a frame at its sink, median and p99, each camera", ages),
    ]
