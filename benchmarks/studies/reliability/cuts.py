"""A live source cut and restored many times: it always comes back, and nothing leaks."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.benchmarks.studies.reliability.soak import footprint, slope
from foldcam.benchmarks.studies.reliability.stream import Stream
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.pipeline.summary import Summary
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.live import LiveSource
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor, State

CUTS = {False: 4, True: 100}
SIZE = "64"
PICTURE = "testsrc=size=320x240:rate=25"
SETTLED = 3
"""Cuts after which threads and descriptors are counted, to be compared with the end."""
WARM_UP = 0.2
"""Share of the cuts after which memory is looked at."""
STALLS = 0.2
"""Share of the cuts in which the source stays connected and falls silent."""
LONGEST_SECONDS = 30.0
FLOW = FlowOptions(stall_seconds=2.0, backoff_seconds=0.1, backoff_most_seconds=1.0, wait=True)


class Arrivals(Sink):
    """A sink that knows when the latest frame came, and whether any was no picture."""

    name = "arrivals"
    may_skip = False
    output: str | None = None

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.frames = 0
        self.flat = 0
        self.out_of_order = 0
        self._latest = -1
        self._captured = float("-inf")

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def write(self, seen: FrameResults) -> None:
        """Count one frame."""
        frame = seen.frame
        with self._changed:
            self.frames += 1
            # What a failed read leaves behind is black or grey all over.
            self.flat += float(frame.image.std()) < 10.0
            self.out_of_order += frame.index <= self._latest
            self._latest = frame.index
            self._captured = frame.captured
            self._changed.notify_all()

    def after(self, moment: float, seconds: float) -> float | None:
        """When the first frame captured after a moment had its results; None if none came."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._captured > moment, seconds)
            return time.monotonic() if came else None


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Cut a stream at random points, restore it after random times, and wait for frames."""
    cuts = CUTS[full]
    model = demo_model(folder.parent / "model", SIZE)
    generator = np.random.default_rng(7)
    arrivals, monitor, stop = Arrivals(), Monitor(), threading.Event()
    outages: list[float] = []
    # Written to now: memory that samples take would be memory that grows.
    resident = np.full(cuts + 1, -1.0)
    first = last = footprint()
    done: list[Summary] = []
    lost = 0
    with Stream(PICTURE) as stream, FoldedModel.load(model, "cpu", 1) as folded:
        source = open_source(stream.uri, flow=FLOW)
        assert isinstance(source, LiveSource)
        runner = threading.Thread(
            target=lambda: done.append(
                run(source, folded, [arrivals], flow=FLOW, monitor=monitor, stop=stop)
            )
        )
        back = stream.restore()
        runner.start()
        try:
            for number in range(cuts + 1):
                came = arrivals.after(back, LONGEST_SECONDS)
                if came is None:
                    lost += 1
                elif number:
                    outages.append(came - back)
                last = footprint()
                resident[number] = last.resident
                if number <= SETTLED:
                    first = last
                progress("cuts", number, cuts)
                if number < cuts:
                    time.sleep(float(generator.uniform(0.05, 0.8)))
                    back = _interrupt(stream, monitor, generator)
        finally:
            stop.set()
            runner.join(30.0)
    if not done:
        raise FoldcamError("The run did not end within 30 s of being stopped.")
    deadline = time.monotonic() + 3 * FLOW.stall_seconds
    while source.left_behind and time.monotonic() < deadline:
        time.sleep(0.05)
    settled = resident[round(WARM_UP * cuts) :]
    grows = slope(np.arange(len(settled)), settled)
    (told,) = done[0].streams
    return {
        "passed": (
            lost == 0
            and len(outages) == cuts
            and not arrivals.flat
            and not arrivals.out_of_order
            and last.threads <= first.threads + 1
            and last.descriptors <= first.descriptors + 2
            and not (full and grows.distinguishable)
            and not source.left_behind
        ),
        "settings": {"cuts": cuts, "flow": asdict(FLOW), "picture": PICTURE},
        "recoveries": len(outages),
        "reconnects": told["reconnects"],
        "frames": arrivals.frames,
        "flat_frames": arrivals.flat,
        "out_of_order": arrivals.out_of_order,
        "outage_seconds": {
            "median": round(float(np.median(outages)), 3) if outages else None,
            "longest": round(max(outages), 3) if outages else None,
        },
        "threads": {"after_three": first.threads, "at_the_end": last.threads},
        "descriptors": {"after_three": first.descriptors, "at_the_end": last.descriptors},
        "captures_left_behind": source.left_behind,
        "resident_mib": round(last.resident / 2**20, 1),
        "kib_per_cut": {name: round(value / 1024, 2) for name, value in asdict(grows).items()},
    }


def _interrupt(stream: Stream, monitor: Monitor, generator: np.random.Generator) -> float:
    """Cut or stall the stream, and restore it; when it was back."""
    if generator.random() < STALLS:
        stream.stall()
        deadline = time.monotonic() + 5 * FLOW.stall_seconds
        while _state(monitor) != State.backoff.value and time.monotonic() < deadline:
            time.sleep(0.02)
    stream.cut()
    time.sleep(float(generator.uniform(0.0, 1.0)))
    return stream.restore()


def _state(monitor: Monitor) -> str:
    return monitor.snapshot().streams[0].state


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    outage, threads, handles = (
        document[name] for name in ("outage_seconds", "threads", "descriptors")
    )
    grows = document["kib_per_cut"]
    return [
        ("cuts of a live source, recoveries",
         f"{document['settings']['cuts']}, {document['recoveries']}"),
        ("outage after the source is back, median and longest",
         f"{outage['median']:.2f} s, {outage['longest']:.2f} s"),
        ("frames that were no picture", str(document["flat_frames"])),
        ("threads after three cuts and at the end",
         f"{threads['after_three']}, {threads['at_the_end']}"),
        ("descriptors after three cuts and at the end",
         f"{handles['after_three']}, {handles['at_the_end']}"),
        ("resident memory, growth per cut (95 % interval)",
         f"{grows['mean']:.1f} KiB ({grows['low']:.1f} to {grows['high']:.1f})"),
    ]  # fmt: skip
