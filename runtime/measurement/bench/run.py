"""`runtime bench` as one call: every file, backend and batch, back to back and at a pace."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from foldcam.runtime.backends import Backend, Library, Provider, open_backend
from foldcam.runtime.backends.choice import is_engine
from foldcam.runtime.engine.canary.check import accepted_wrong_of
from foldcam.runtime.measurement.bench.facts import machine_facts, state
from foldcam.runtime.measurement.bench.loops import Loop, instabilities, summary, synthetic_frames
from foldcam.runtime.measurement.bench.power import (
    PowerMeter,
    Rails,
    energy,
    find_rails,
    idle_watts,
)
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.version import versions

StageProgress = Callable[[str, int, int], None]

_IDLE_SECONDS = 2.0
_USUAL_FRAME = (1280, 720)
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy", "opencv-python-headless")
# A clock that moves by more than that during a run makes it unstable.
_LARGEST_CLOCK_CHANGE = 0.05


@dataclass(frozen=True)
class Target:
    """What runs a file."""

    library: Library | None = None
    provider: Provider = "auto"

    @property
    def name(self) -> str:
        """In words, such as `onnxruntime, cpu`."""
        library = self.library or "the file's own"
        return library if self.provider == "auto" else f"{library}, {self.provider}"


@dataclass(frozen=True)
class BenchOptions:
    """How it is measured.

    Attributes:
        threads: on the CPU; None leaves it to the library.
        rate: passes per second of the paced run; 0 leaves it out.
        frame: width and height of the frames, before they are brought to the model's input; None
            takes the size that the model takes, or 1280 x 720 where it takes any.
    """

    targets: tuple[Target, ...] = (Target(),)
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    pin: tuple[int, ...] = ()
    passes: int = 300
    warm_up: int = 30
    rate: float = 30.0
    frame: tuple[int, int] | None = None
    cuda_graph: bool | None = None
    accept_wrong: bool = False


def run_bench(
    files: Sequence[Path], options: BenchOptions, progress: StageProgress | None = None
) -> dict[str, Any]:
    """Time folded models and engines on this machine.

    Args:
        files: folded `.onnx` and engines; those of several precisions of one network make the
            matrix.
        progress: called with `(stage, done, total)`.

    Returns:
        `machine`, `versions`, `settings`, and `runs`: for each file, target, batch and mode the
        series `host`, `inference`, and `device` on a GPU, `energy` where power can be measured,
        `stable` and `reasons`, `accepted_wrong` (what is wrong of the answers to the probe
        pictures, or None); or a `problem` in their place.
    """
    rails = find_rails()
    runs: list[dict[str, Any]] = []
    with _pinned(options.pin):
        idle = idle_watts(rails, _IDLE_SECONDS) if rails else {}
        bench = _Bench(options, rails, idle, progress or (lambda *_: None))
        for file in files:
            for target in _fitting(file, options.targets):
                runs += bench.runs(file, target)
    problems = [run["problem"] for run in runs if "problem" in run]
    if problems and len(problems) == len(runs):
        raise FoldcamError(problems[0])
    return {
        "machine": machine_facts(),
        "versions": versions(_PACKAGES),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "settings": {
            "threads": options.threads,
            "pinned_to": list(options.pin),
            "passes": options.passes,
            "warm_up": options.warm_up,
            "frame": next(run["frame"] for run in runs if "frame" in run),
        },
        "watts_idle": {rail: round(watts, 3) for rail, watts in idle.items()},
        "runs": runs,
    }


def _fitting(file: Path, targets: Sequence[Target]) -> list[Target]:
    """What can be asked of a file: an engine has its own library, and providers are no matter."""
    if not is_engine(file):
        return list(targets)
    engines = [replace(target, provider="auto") for target in targets]
    kept = [target for target in engines if target.library != "onnxruntime"]
    return list(dict.fromkeys(kept)) or [Target()]


@dataclass(frozen=True)
class _Bench:
    options: BenchOptions
    rails: Rails | None
    idle: dict[str, float]
    progress: StageProgress

    def runs(self, file: Path, target: Target) -> list[dict[str, Any]]:
        options, key = self.options, {"file": file.name, "target": target.name}
        try:
            backend = open_backend(
                file, target.provider, options.threads, library=target.library,
                cuda_graph=options.cuda_graph, accept_wrong=options.accept_wrong,
            )  # fmt: skip
        except FoldcamError as error:
            return [{**key, "problem": str(error)}]
        found = []
        with closing(backend):
            size = options.frame or backend.contract.frame or _USUAL_FRAME
            frames = synthetic_frames(*size)
            about = {**key, "backend": backend.name, "runs_on": backend.device,
                     "precision": precision_of(file, backend), "frame": list(size),
                     "accepted_wrong": accepted_wrong_of(backend)}  # fmt: skip
            for batch in options.batches:
                loop = Loop(backend, frames, batch)
                for rate in (0.0, options.rate) if options.rate else (0.0,):
                    mode = "paced" if rate else "back_to_back"
                    head = {**about, "batch": batch, "mode": mode, "rate": rate or None}
                    stage = f"{file.name}, {target.name}, batch {batch}, {mode.replace('_', ' ')}"
                    try:
                        found.append(self._one(head, loop, rate, stage))
                    except FoldcamError as error:
                        found.append({**head, "problem": str(error)})
        return found

    def _one(self, head: dict[str, Any], loop: Loop, rate: float, stage: str) -> dict[str, Any]:
        options, step = self.options, partial(self.progress, stage)
        before, start = state(), time.perf_counter()
        meter = None if self.rails is None else PowerMeter(self.rails)
        with meter or nullcontext():
            if rate:
                timings = loop.paced(options.passes, options.warm_up, rate, step)
            else:
                timings = loop.back_to_back(options.passes, options.warm_up, step)
        seconds, after = time.perf_counter() - start, state()
        run: dict[str, Any] = {**head, "before": before, "after": after}
        reasons = _clock_reasons(before, after)
        for name in ("host", "inference", "device", "response"):
            values: list[float] = getattr(timings, name)
            if values:
                run[name] = summary(values)
                if name != "response":
                    reasons += instabilities(run[name], name)
        if rate:
            run["late"] = timings.late
        if meter is not None and meter.samples:
            # The network runs twice in a pass where it is timed without its copies as well.
            images = (options.passes + options.warm_up) * head["batch"]
            if not timings.device:
                run["energy"] = energy(meter.watts(), self.idle, seconds, images)
            run["watts"] = {rail: round(watts, 3) for rail, watts in meter.watts().items()}
        run["frames_per_second"] = round(1e3 * head["batch"] / run["host"]["p50"], 2)
        return {**run, "stable": not reasons, "reasons": reasons}


def _clock_reasons(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    clocks = before.get("clock_mhz"), after.get("clock_mhz")
    if clocks[0] and clocks[1] and abs(clocks[1] / clocks[0] - 1) > _LARGEST_CLOCK_CHANGE:
        return [f"the processor's clock went from {clocks[0]:.0f} to {clocks[1]:.0f} MHz"]
    return []


def precision_of(file: Path, backend: Backend) -> str:
    """What the file computes in: an engine's manifest knows, an `.onnx` says it itself."""
    if is_engine(file):
        from foldcam.runtime.engine.manifest import read_manifest

        return str(read_manifest(file).precision)
    found = str(getattr(backend.contract, "precision", "fp32"))
    return "int8" if getattr(backend.contract, "calibration", None) else found


@contextmanager
def _pinned(processors: Sequence[int]) -> Iterator[None]:
    """Bind this process to processors for a block."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, set(processors))
    except OSError as error:
        there = ", ".join(str(number) for number in sorted(before))
        raise FoldcamError(
            f"--pin {','.join(str(number) for number in processors)}: this process may use the "
            f"processors {there}."
        ) from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
