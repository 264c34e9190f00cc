"""`runtime gate` as one call: files in, a signed report out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from foldcam.runtime.backends import Backend, Provider, open_backend
from foldcam.runtime.backends.choice import is_engine
from foldcam.runtime.comparison.device_gate import DeviceGate, DeviceVerdict, Progress, check_pair
from foldcam.runtime.comparison.figures import compared_text
from foldcam.runtime.comparison.images import GateImages, read_gate_images
from foldcam.runtime.comparison.signed_report import (
    device_facts,
    engine_facts,
    image_facts,
    model_facts,
    signed,
)
from foldcam.runtime.comparison.verdict import GateLimits
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.engine.manifest import read_manifest
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.text import printable

# opens an engine; the second path is the model that it has to be built from
OpenEngine = Callable[[Path, Path], Backend]


def open_in_tensorrt(engine: Path, model: Path) -> Backend:
    """Open an engine, and check that it was built from the model where that is still there."""
    from foldcam.runtime.backends.tensorrt.opening import open_engine

    return open_engine(engine, model=model if model.is_file() else None)


@dataclass(frozen=True)
class GateFiles:
    """The files that are compared.

    Attributes:
        model: the quantized model.
        reference: the float32 model that it was calibrated from.
        images: folder of photographs.
        engine: built from `model`; None judges the model in ONNX Runtime.
        rival: an engine of the float model, which the other has to be faster than; None leaves
            an engine's speed unmeasured. In ONNX Runtime the reference is the rival.
    """

    model: Path
    reference: Path
    images: Path
    engine: Path | None = None
    rival: Path | None = None


@dataclass(frozen=True)
class GateSettings:
    """How it is judged.

    Attributes:
        limits: what passes.
        provider: what ONNX Runtime computes on, where there is no engine.
        threads: threads of ONNX Runtime on the CPU; None leaves their number to the library.
        rounds: timed pairs of runs.
    """

    limits: GateLimits = field(default_factory=GateLimits)
    provider: Provider = "auto"
    threads: int | None = None
    rounds: int = 50


def float_model_of(model: Path) -> Path:
    """The float model beside a quantized one: `birds.onnx` for `birds.int8.onnx`.

    Raises:
        FoldcamError: there is none.
    """
    beside = model.with_name(f"{Path(model.stem).stem}.onnx")
    if beside == model or not beside.is_file():
        raise FoldcamError(
            f"The gate compares {model} with the float32 model that it was calibrated from: name "
            "that with --reference."
        )
    return beside


def gate_on_device(
    files: GateFiles,
    settings: GateSettings | None = None,
    progress: Progress | None = None,
    engines: OpenEngine = open_in_tensorrt,
) -> dict[str, Any]:
    """Judge a quantized model where it is to run.

    Args:
        files: the files that are compared.
        settings: how it is judged.
        progress: called with `(stage, done, total)`.
        engines: opens engines; TensorRT unless given.

    Returns:
        The signed report.

    Raises:
        FoldcamError: a file cannot be used, or the models do not belong together.
    """
    settings = settings or GateSettings()
    progress = progress or (lambda *_: None)
    contract, reference = read_contract(files.model), read_contract(files.reference)
    _check(files, contract, reference)
    images = read_gate_images(files.images, reference, partial(progress, "images"))
    with ExitStack() as stack:

        def opened(backend: Backend) -> Backend:
            stack.enter_context(closing(backend))
            return backend

        expected = opened(open_backend(files.reference, "cpu", settings.threads))
        rival: Backend | None = None
        if files.engine is not None:
            candidate = opened(engines(files.engine, files.model))
            if files.rival is not None:
                rival = opened(engines(files.rival, _built_from(files.rival)))
        else:
            provider, threads = settings.provider, settings.threads
            candidate = opened(open_backend(files.model, provider, threads))
            rival = opened(open_backend(files.reference, provider, threads))
        gate = DeviceGate(expected, images, progress)
        verdict = gate.judge(candidate, rival, settings.limits, "gate", settings.rounds)
        report = {
            "passed": verdict.passed,
            "failures": list(verdict.failures),
            "figures": verdict.figures.document(),
            "in_bank": verdict.in_bank,
            "worst": worst_images(verdict, images),
            "speed": None if verdict.speed is None else verdict.speed.document(),
            "speed_against": None if rival is None else (files.rival or files.reference).name,
            "limits": asdict(settings.limits),
            "model": model_facts(files.model, contract),
            "reference": model_facts(files.reference, reference),
            "engine": None
            if files.engine is None
            else engine_facts(files.engine, read_manifest(files.engine)),
            "images": image_facts(images),
            "device": device_facts(candidate),
        }
    return signed(report)


def worst_images(verdict: DeviceVerdict, images: GateImages, count: int = 4) -> list[Any]:
    """`[name, cosine, heatmap correlation]` of the images that lost most, worst first."""
    each = verdict.each
    return [
        [printable(images.names[n]), float(each.cosine[n]), float(each.correlation[n])]
        for n in each.worst(count)
    ]


def gate_text(document: dict[str, Any]) -> str:
    """The signed report as lines to read."""
    report = document["report"]
    device, figures, images = report["device"], report["figures"], report["images"]
    where = device["gpu"] if device["runs_on"] != "cpu" else f"the CPU ({device['machine']})"
    lines = [
        f"foldcam gate: {'PASSED' if report['passed'] else 'FAILED'}",
        *(f"  {failure}" for failure in report["failures"]),
        f"model      {report['model']['file']} against {report['reference']['file']}",
        f"device     {device['library']} on {where}"
        + (f", L4T {device['l4t']}" if device["l4t"] else ""),
        f"images     {images['count']}, {images['labelled']} of them with a label of the bank"
        + (f", {report['in_bank']} in the bank themselves" if report["in_bank"] else ""),
        f"embedding  cosine {figures['embedding_cosine_mean']:.5f} mean, "
        f"{figures['embedding_cosine_worst']:.5f} worst; same neighbor "
        f"{figures['neighbor_agreement']:.1%}",
        *_answer_lines(figures),
        f"heatmap    correlation {_shown(figures['heatmap_correlation_mean'])} mean, "
        f"{_shown(figures['heatmap_correlation_p5'])} at 5 %, "
        f"{_shown(figures['heatmap_correlation_worst'])} worst "
        f"({compared_text(figures['heatmaps_compared'], figures['heatmaps_blank'])})",
        f"speed      {_speed(report)}",
        *(f"worst      {name}: cosine {cosine:.4f}, heatmap {_shown(correlation)}"
          for name, cosine, correlation in report["worst"]),
        f"sha256     {document['sha256']}",
    ]  # fmt: skip
    return "\n".join(printable(line) for line in lines)


def _answer_lines(figures: dict[str, Any]) -> list[str]:
    lines = []
    if figures["recall"] is not None:
        low, high = (100 * figures[f"recall_lost_{end}"] for end in ("low", "high"))
        lines.append(
            f"recall@1   {figures['recall']:.2%} (float {figures['recall_reference']:.2%}; lost, "
            f"95 % interval: {low:.1f} to {high:.1f} points)"
        )
    if figures["estimate_error"] is not None:
        lines.append(f"estimate   moved by {figures['estimate_error']:.4f} of the values' range")
    return lines


def _speed(report: dict[str, Any]) -> str:
    speed = report["speed"]
    if speed is None:
        return "not measured: name an engine of the float model with --against"
    return (
        f"{speed['ratio']:.2f} times that of {report['speed_against']} "
        f"({speed['low']:.2f} to {speed['high']:.2f})"
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _check(files: GateFiles, contract: Contract, reference: Contract) -> None:
    if contract.calibration is None:
        raise FoldcamError(
            f"{files.model} is not quantized: give what `foldcam calibrate` wrote, and the float "
            "model with --reference."
        )
    if reference.calibration is not None or reference.precision != "fp32":
        raise FoldcamError(
            f"--reference {files.reference} is {'quantized' if reference.calibration else 'fp16'} "
            "itself: give the float32 model that it was made from."
        )
    check_pair(reference, contract)
    if files.engine is not None and contract.calibration.target == "cpu":
        raise FoldcamError(
            f"{files.model} has the form for ONNX Runtime on a CPU, which TensorRT refuses: "
            "calibrate it with --target tensorrt."
        )
    for engine in (files.engine, files.rival):
        if engine is not None and not is_engine(engine):
            raise FoldcamError(f"{engine} is no engine: give what `runtime build` wrote.")


def _built_from(engine: Path) -> Path:
    return engine.with_name(read_manifest(engine).model.name)
