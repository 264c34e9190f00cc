"""`runtime build --precision auto`: the fastest engine of a network that passes the gate.

Each candidate is a file, because precision lives in the file: what was exported with
`--precision fp16`, and what `foldcam calibrate` wrote. Each is built, judged against the
float32 model on photographs (`runtime.measurement.comparison.gate`), and timed alternately with the
others.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.runtime.backends import Backend, open_backend
from foldcam.runtime.backends.tensorrt.building import build_tried_engine
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.engine.builder import Built
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.manifest import Manifest, manifest_path
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.progress import BuildLine
from foldcam.runtime.measurement.comparison.gate import (
    DeviceGate,
    DeviceVerdict,
    OpenEngine,
    Progress,
    check_pair,
    open_in_tensorrt,
    verdict_record,
)
from foldcam.runtime.measurement.comparison.images import GateImages, read_gate_images
from foldcam.runtime.measurement.comparison.signed_report import (
    device_facts,
    engine_facts,
    image_facts,
    model_facts,
    signed,
)
from foldcam.runtime.measurement.comparison.verdict import GateLimits
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for

_NOT_JUDGED: dict[str, Any] = {"passed": False, "failures": [], "figures": None, "worst": []}
_SUFFIXES = (".fp16.onnx", ".int8.onnx")


@dataclass(frozen=True)
class FastestOptions:
    """What is built and how it is judged."""

    model: Path
    candidates: tuple[Path, ...]
    images: Path
    out: Path
    build: BuildOptions
    limits: GateLimits = field(default_factory=GateLimits)
    rounds: int = 100


@dataclass
class _Candidate:
    model: Path
    engine: Path
    manifest: Manifest | None = None
    problem: str = ""
    verdict: DeviceVerdict | None = None
    milliseconds: float | None = None

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed


def candidates_beside(model: Path) -> tuple[Path, ...]:
    """`birds.fp16.onnx` and `birds.int8.onnx` beside `birds.onnx`."""
    found = tuple(path for suffix in _SUFFIXES if (path := model.with_suffix(suffix)).is_file())
    if not found:
        names = " or ".join(model.with_suffix(suffix).name for suffix in _SUFFIXES)
        raise FoldcamError(
            f"--precision auto chooses among models in several precisions, and there is no {names} "
            f"beside {model}: name them with --candidate."
        )
    return found


def build_fastest(
    options: FastestOptions,
    flavour: Flavour,
    *,
    line: BuildLine | None = None,
    progress: Progress | None = None,
    build: Callable[..., Built] = build_tried_engine,
    engines: OpenEngine = open_in_tensorrt,
) -> dict[str, Any]:
    """Build every candidate, judge each, time those that pass, and keep the fastest.

    The engine appears at `options.out`, with its manifest, if one passes; otherwise nothing does.

    Args:
        flavour: the TensorRT to build with.
        progress: called with `(stage, done, total)`.
        build: builds an engine, as `build_tried_engine` does.
        engines: opens engines; TensorRT unless given.

    Returns:
        The signed report: `chosen` is the file name of the winner, or None.
    """
    progress = progress or (lambda *_: None)
    reference = read_contract(options.model)
    if reference.calibration is not None or reference.precision != "fp32":
        raise FoldcamError(
            f"{options.model} is not float32: --precision auto compares with the float32 model."
        )
    for path in options.candidates:
        check_pair(reference, read_contract(path))
    images = read_gate_images(options.images, reference, partial(progress, "images"))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with user_errors_for(options.out):
        folder = tempfile.TemporaryDirectory(prefix=".foldcam-", dir=options.out.parent)
    with folder as name, ExitStack() as stack:
        found = [
            _built(path, Path(name) / str(number) / options.out.name, options, flavour, line, build)
            for number, path in enumerate(options.candidates)
        ]
        if not any(each.manifest for each in found):
            reasons = "; ".join(f"{each.model.name}: {each.problem.rstrip('.')}" for each in found)
            raise FoldcamError(f"No candidate can be built here ({reasons}).")
        with closing(open_backend(options.model, "cpu")) as expected:
            gate = DeviceGate(expected, images, progress)
        opened = _judged(found, gate, options.limits, engines, stack)
        winner = _fastest(found, opened, gate, options.rounds)
        report = {
            "passed": winner is not None,
            "chosen": None if winner is None else winner.model.name,
            "engine": None if winner is None else options.out.name,
            "limits": asdict(options.limits),
            "reference": model_facts(options.model, reference),
            "candidates": [_record(each, images) for each in found],
            "images": image_facts(images),
            "device": device_facts(next(iter(opened.values()))) if opened else None,
        }
        # Engines are closed before their files move.
        stack.close()
        if winner is not None:
            with user_errors_for(options.out):
                # The manifest last: beside an older one a new plan is refused, never trusted.
                shutil.move(winner.engine, options.out)
                shutil.move(manifest_path(winner.engine), manifest_path(options.out))
    return signed(report)


def _built(
    model: Path,
    engine: Path,
    options: FastestOptions,
    flavour: Flavour,
    line: BuildLine | None,
    build: Callable[..., Built],
) -> _Candidate:
    candidate = _Candidate(model, engine)
    calibration = read_contract(model).calibration
    if calibration is not None and calibration.target == "cpu":
        candidate.problem = (
            "it has the form for ONNX Runtime on a CPU: calibrate it with --target tensorrt."
        )
        return candidate
    try:
        candidate.manifest = build(model, engine, options.build, flavour, line=line).manifest
    except FoldcamError as error:
        # What one candidate lacks must not keep the other from being used.
        candidate.problem = str(error)
    return candidate


def _judged(
    found: Sequence[_Candidate],
    gate: DeviceGate,
    limits: GateLimits,
    engines: OpenEngine,
    stack: ExitStack,
) -> dict[Path, Backend]:
    """Give every candidate that was built its verdict; returns the opened engines by model."""
    opened: dict[Path, Backend] = {}
    for each in found:
        if each.manifest is None:
            continue
        try:
            backend = engines(each.engine, each.model)
            stack.enter_context(closing(backend))
            each.verdict = gate.judge(backend, None, limits, each.model.name)
            opened[each.model] = backend
        except FoldcamError as error:
            each.problem = str(error)
    return opened


def _fastest(
    found: Sequence[_Candidate], opened: dict[Path, Backend], gate: DeviceGate, rounds: int
) -> _Candidate | None:
    running = [each for each in found if each.model in opened]
    if not running:
        return None
    seconds = gate.seconds([opened[each.model] for each in running], "speed", rounds)
    for each, middle in zip(running, np.median(seconds, axis=0), strict=True):
        each.milliseconds = 1e3 * float(middle)
    passed = [each for each in running if each.passed]
    return min(passed, key=lambda each: each.milliseconds or 0.0) if passed else None


def _record(each: _Candidate, images: GateImages) -> dict[str, Any]:
    verdict = each.verdict
    return {
        "model": model_facts(each.model, read_contract(each.model)),
        "engine": None if each.manifest is None else engine_facts(each.engine, each.manifest),
        "problem": each.problem,
        "milliseconds": each.milliseconds,
        **(_NOT_JUDGED if verdict is None else verdict_record(verdict, images)),
    }


def fastest_text(document: dict[str, Any]) -> str:
    """The signed report as lines to read."""
    report = document["report"]
    lines = []
    for each in report["candidates"]:
        time = "-" if each["milliseconds"] is None else f"{each['milliseconds']:.2f} ms"
        said = each["problem"] or "; ".join(each["failures"]) or "passed"
        taken = ", taken" if each["model"]["file"] == report["chosen"] else ""
        lines.append(f"{each['model']['file']:24} {time:>10}  {said}{taken}")
    lines.append(f"sha256 of the report {document['sha256']}")
    return "\n".join(lines)
