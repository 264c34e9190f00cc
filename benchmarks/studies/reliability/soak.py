"""Many frames of a recorded source: each once, in order, and memory that does not grow."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.pattern import number_in

BLOCKS = 20


@dataclass(frozen=True)
class Footprint:
    """A process at one moment."""

    resident: int  # bytes of memory
    threads: int  # that run, of any library
    descriptors: int  # that are open


def footprint() -> Footprint:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Footprint(
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(os.listdir("/proc/self/task")),  # noqa: PTH208
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    )


@dataclass(frozen=True)
class Slope:
    """Growth per step with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether growth is more than chance."""
        return self.low > 0.0


def slope(steps: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> Slope:
    """Mean growth from block to block of `BLOCKS` blocks' medians, with Student's interval.

    A level that wanders is as likely as not to end higher than it began, and a line through it
    looks certain (Granger and Newbold 1974, "Spurious regressions in econometrics"): resident
    memory takes a page now and then, when more frames than ever before are under way at once.
    What is independent are its increments, so the interval is theirs.
    """
    across, up = np.asarray(steps, float), np.asarray(values, float)
    if len(across) != len(up) or len(across) < 3:
        raise ValueError(f"a slope needs at least three samples, got {len(up)}")
    blocks = min(BLOCKS, len(across))
    x = np.array([part.mean() for part in np.array_split(across, blocks)])
    # A median has a step that falls into its block on one side of it, and not on both.
    y = np.array([np.median(part) for part in np.array_split(up, blocks)])
    growth = np.diff(y) / np.diff(x)
    error = float(growth.std(ddof=1) / np.sqrt(len(growth)))
    reach = float(stats.t.ppf(0.5 + level / 2, len(growth) - 1)) * error
    mean = float(growth.mean())
    return Slope(mean, mean - reach, mean + reach)


FRAMES = {False: 2_000, True: 100_000}
SIZE = "64"
SAMPLES = 400
WARM_UP = 0.2
"""Share of the frames after which memory is looked at."""
SLOW = 200
"""Frames at the beginning on which the sink is slow, so that every queue was full once: memory
that is needed when they are full for the first time would else be needed at any time later."""
DRAWN_EVERY = 50
TOLD = 20
GROSS = 2**20 / 1e3
"""Bytes per frame that are a leak in the short form, too: a MiB per 1,000 frames."""


class Witness(Sink):
    """A sink that reads each frame's number from its pixels, draws some, and samples memory."""

    name = "witness"
    may_skip = False
    output: str | None = None

    def __init__(self, frames: int, progress: Progress) -> None:
        self._frames = frames
        self._tell = progress
        self._every = max(1, frames // SAMPLES)
        self.expected = 0
        self.out_of_order = 0
        # Written to now: memory that samples take would be memory that grows.
        self._steps = np.full(SAMPLES + 1, -1.0)
        self._resident = np.full(SAMPLES + 1, -1.0)
        self._threads = np.zeros(SAMPLES + 1, np.int64)
        self._sampled = 0

    @property
    def threads(self) -> npt.NDArray[np.int64]:
        """Threads that there were at each sample."""
        return self._threads[: self._sampled]

    @property
    def samples(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Frames, and bytes of resident memory after each."""
        return self._steps[: self._sampled], self._resident[: self._sampled]

    def __enter__(self) -> Witness:
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
        number = number_in(seen.frame.image)
        if number != self.expected or seen.frame.index != number:
            self.out_of_order += 1
        self.expected += 1
        if number < SLOW:
            time.sleep(0.01)
        if number % DRAWN_EVERY == 0:
            assert (
                seen.image.shape[1:] == seen.frame.image.shape[1:]
            )  # the caption is a strip below
        if number % self._every == 0 and self._sampled < len(self._steps):
            now = footprint()
            self._steps[self._sampled] = number
            self._resident[self._sampled] = now.resident
            self._threads[self._sampled] = now.threads
            self._sampled += 1
        if number % max(1, self._frames // TOLD) == 0:
            self._tell("frames", number + 1, self._frames)


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run the test pattern through a real folded model."""
    frames = FRAMES[full]
    model = demo_model(folder.parent / "model", SIZE)
    witness = Witness(frames, progress)
    with FoldedModel.load(model, "cpu", 1) as folded:
        summary = run(open_source(f"test://?size=160x120&frames={frames}"), folded, [witness])
    left = [each.name for each in threading.enumerate() if each.name.startswith("foldcam")]
    steps, resident = witness.samples
    begin = round(WARM_UP * len(steps))
    grows = slope(steps[begin:], resident[begin:])
    (stream,) = summary.streams
    once = (
        summary.frames == stream["captured"] == witness.expected == frames
        and not stream["drops"]
        and not witness.out_of_order
    )
    # Few frames progress only what is gross: buffers are still being filled.
    steady = not grows.distinguishable if full else grows.low < GROSS
    # Libraries start threads of their own with the first frames, and keep them.
    threads = int(witness.threads[begin]), int(witness.threads[-1])
    return {
        "passed": once and steady and threads[1] <= threads[0] and not left,
        "settings": {"frames": frames, "network": f"EfficientNet-Lite0, input {SIZE}"},
        "frames": summary.frames,
        "lost": frames - summary.frames,
        "out_of_order": witness.out_of_order,
        "fps": summary.fps,
        "threads": {"warm": threads[0], "at_the_end": threads[1], "left_behind": len(left)},
        "resident_mib": round(float(resident[-1]) / 2**20, 1),
        "bytes_per_thousand_frames": {
            name: round(1e3 * value, 1) for name, value in asdict(grows).items()
        },
    }


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    grows, threads = document["bytes_per_thousand_frames"], document["threads"]
    return [
        ("frames of a recorded source", f"{document['frames']:,}"),
        ("lost", str(document["lost"])),
        ("out of order or twice", str(document["out_of_order"])),
        (
            "resident memory, growth per 1,000 frames (95 % interval)",
            f"{grows['mean'] / 1024:.2f} KiB ({grows['low'] / 1024:.2f} to "
            f"{grows['high'] / 1024:.2f})",
        ),
        (
            "threads after the first fifth, at the end, and left behind",
            f"{threads['warm']}, {threads['at_the_end']}, {threads['left_behind']}",
        ),
        ("resident memory at the end", f"{document['resident_mib']:.0f} MiB"),
    ]
