"""`runtime gate`: what a quantized model costs on this device, in the engine that was built here.

The float32 model in ONNX Runtime on the CPU is the reference. Candidates are compared with it
on photographs, and timed alternately with the float model in the same library. Needs neither
torch nor onnx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.runtime.backends import Array, Backend, Provider, open_backend
from foldcam.runtime.backends.choice import is_engine
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import (
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.engine.canary.check import accepted_wrong_of
from foldcam.runtime.engine.manifest import read_manifest
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.measurement.comparison.figures import (
    Answered,
    Booleans,
    Doubles,
    GateFigures,
    PerImage,
    compare_answers,
    compared_text,
    nearest_other,
    own_rows,
    same_rows,
)
from foldcam.runtime.measurement.comparison.images import GateImages, read_gate_images
from foldcam.runtime.measurement.comparison.interleaved import Ratio, ratio_of, seconds_interleaved
from foldcam.runtime.measurement.comparison.signed_report import (
    device_facts,
    engine_facts,
    image_facts,
    model_facts,
    signed,
)
from foldcam.runtime.measurement.comparison.verdict import GateLimits, failures_of
from foldcam.runtime.model.model_input import ModelInput
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

Progress = Callable[[str, int, int], None]
# opens an engine; the second path is the model that it has to be built from
OpenEngine = Callable[[Path, Path], Backend]

_TIMED_IMAGES, _WORST_IMAGES = 16, 4


def open_in_tensorrt(engine: Path, model: Path, accept_wrong: bool = False) -> Backend:
    """Open an engine, and check that it was built from the model where that is still there."""
    from foldcam.runtime.backends.tensorrt.opening import open_engine

    return open_engine(engine, model=model if model.is_file() else None, accept_wrong=accept_wrong)


@dataclass(frozen=True, eq=False)
class DeviceVerdict:
    """What one candidate costs on this device."""

    figures: GateFigures
    each: PerImage
    speed: Ratio | None
    failures: tuple[str, ...]
    in_bank: int

    @property
    def passed(self) -> bool:
        """Whether it may be used here."""
        return not self.failures


class DeviceGate:
    """The reference's answers, asked once, with which candidates are compared."""

    def __init__(self, reference: Backend, images: GateImages, progress: Progress) -> None:
        self._contract, self._images, self._progress = reference.contract, images, progress
        self._expected = self._ask("reference", reference)
        self._own = own_rows(self._expected[NEIGHBOR], self._expected[SIMILARITY])

    def judge(
        self,
        candidate: Backend,
        rival: Backend | None,
        limits: GateLimits,
        name: str = "candidate",
        rounds: int = 50,
    ) -> DeviceVerdict:
        """Compare and time one candidate.

        Args:
            rival: what it has to be faster than; None leaves speed unmeasured.
        """
        check_pair(self._contract, candidate.contract)
        found = self._ask(name, candidate)
        unknown = (self._own >= 0) & (self._expected[NEIGHBOR].shape[1] == 1)
        figures, each = compare_answers(
            self._answered(self._expected, ~unknown),
            self._answered(found, ~unknown),
            self._same_weights(found),
        )
        speed = ratio = None
        if rival is not None:
            seconds = self.seconds((rival, candidate), f"{name}, speed", rounds)
            speed = ratio_of(seconds[:, 0], seconds[:, 1])
            ratio = speed.ratio
        failures = tuple(failures_of(figures, limits, ratio))
        return DeviceVerdict(figures, each, speed, failures, int(unknown.sum()))

    def seconds(self, backends: Sequence[Backend], stage: str, rounds: int) -> Doubles:
        """Seconds of each backend for single images, run alternately: `[rounds, backends]`."""
        batches = [_ready(image, self._contract) for image in self._images.images[:_TIMED_IMAGES]]

        def run_of(backend: Backend) -> Callable[[int], object]:
            return lambda turn: backend.run(batches[turn % len(batches)])

        self._progress(stage, 0, rounds)
        seconds = seconds_interleaved([run_of(backend) for backend in backends], rounds)
        self._progress(stage, rounds, rounds)
        return seconds

    def _ask(self, name: str, backend: Backend) -> dict[str, Array]:
        """Every output for every image, one image per pass as from a camera."""
        parts: list[dict[str, Array]] = []
        images = self._images.images
        for done, image in enumerate(images, 1):
            parts.append(backend.run(_ready(image, self._contract)))
            self._progress(name, done, len(images))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _answered(self, outputs: dict[str, Array], counted: Booleans) -> Answered:
        contract, rows = self._contract, nearest_other(outputs[NEIGHBOR], self._own)
        heat, hit, error = outputs[HEATMAP], None, None
        if contract.outcome is not None:
            heat = np.concatenate([heat, outputs[HEATMAP_LOWER]], axis=1)
            error = self._estimate_moved(outputs)
        else:
            pairs = zip(rows, self._images.labels, counted, strict=True)
            hits = [contract.label_of(int(r)) == name for r, name, c in pairs if c and name]
            hit = np.array(hits, np.bool_) if hits else None
        contribution = outputs[CONTRIBUTION][:, 0] if CONTRIBUTION in outputs else None
        return Answered(outputs[EMBEDDING], heat, rows, hit, error, contribution)

    def _estimate_moved(self, outputs: dict[str, Array]) -> Doubles:
        """How far the estimate is from the reference's, as a share of the bank's range.

        The true values are not known here. By the triangle inequality the error cannot grow by
        more than this.
        """
        outcome = self._contract.outcome
        assert outcome is not None
        ends = [outcome.low, outcome.high]
        given, wanted = (found[ESTIMATE].astype(np.float64) for found in (outputs, self._expected))
        if outcome.transform == "log":
            ends = [math.log(end) for end in ends]
            with np.errstate(divide="ignore", invalid="ignore"):
                given, wanted = np.log(given), np.log(wanted)
        return np.asarray(np.abs(given - wanted) / max(ends[1] - ends[0], 1e-30), np.float64)

    def _same_weights(self, found: dict[str, Array]) -> Booleans:
        """Whether both answers rest on the same grad-weights, as far as rows are reported."""
        contract = self._contract
        used = min(contract.transfer, contract.neighbors)
        pair = [outputs[NEIGHBOR][:, :used] for outputs in (self._expected, found)]
        names = sorted({run.name for run in contract.labels})
        if names and contract.bank.grad_weight_rows == len(names):
            # One row of grad-weights per label.
            place = {name: number for number, name in enumerate(names)}
            pair = [
                np.array([[place[contract.label_of(int(r))] for r in rows] for rows in found_rows])
                for found_rows in pair
            ]
        return same_rows(*pair)


def check_pair(reference: Contract, candidate: Contract) -> None:
    """Whether two models answer the same question."""
    for what, wanted, got in (
        ("network", reference.origin.network_sha256, candidate.origin.network_sha256),
        ("preprocessing", reference.preprocessing, candidate.preprocessing),
        ("input", reference.input_type, candidate.input_type),
        ("size of images", reference.image_size, candidate.image_size),
        ("layer", reference.layer, candidate.layer),
        ("heatmap size", reference.heatmap_size, candidate.heatmap_size),
        ("number of neighbors", reference.neighbors, candidate.neighbors),
        ("transfer", reference.transfer, candidate.transfer),
        ("labels", reference.labels, candidate.labels),
        ("outcome", reference.outcome, candidate.outcome),
        ("explanation", reference.explanation, candidate.explanation),
    ):
        if wanted != got:
            raise FoldcamError(
                f"Reference and quantized model have another {what}: give the float32 model that "
                "the quantized one was calibrated from."
            )


@dataclass(frozen=True)
class GateFiles:
    """The files that are compared.

    Attributes:
        reference: the float32 model that it was calibrated from.
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
        provider: what ONNX Runtime computes on, where there is no engine.
        threads: threads of ONNX Runtime on the CPU; None leaves their number to the library.
        accept_wrong: whether what answers the probe pictures wrongly is judged all the same.
    """

    limits: GateLimits = field(default_factory=GateLimits)
    provider: Provider = "auto"
    threads: int | None = None
    rounds: int = 50
    accept_wrong: bool = False


def float_model_of(model: Path) -> Path:
    """The float model beside a quantized one: `birds.onnx` for `birds.int8.onnx`."""
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
    engines: OpenEngine | None = None,
) -> dict[str, Any]:
    """Judge a quantized model where it is to run."""
    settings = settings or GateSettings()
    wrong = settings.accept_wrong
    engines = engines or partial(open_in_tensorrt, accept_wrong=wrong)
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
                built_from = files.rival.with_name(read_manifest(files.rival).model.name)
                rival = opened(engines(files.rival, built_from))
        else:
            provider, threads = settings.provider, settings.threads
            candidate = opened(open_backend(files.model, provider, threads, accept_wrong=wrong))
            rival = opened(open_backend(files.reference, provider, threads, accept_wrong=wrong))
        gate = DeviceGate(expected, images, progress)
        verdict = gate.judge(candidate, rival, settings.limits, "gate", settings.rounds)
        report = {
            **verdict_record(verdict, images),
            "in_bank": verdict.in_bank,
            "accepted_wrong": accepted_wrong_of(candidate),
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


def verdict_record(verdict: DeviceVerdict, images: GateImages) -> dict[str, Any]:
    """What a report says of a verdict, with the images that lost most, worst first."""
    each = verdict.each
    return {
        "passed": verdict.passed,
        "failures": list(verdict.failures),
        "figures": verdict.figures.document(),
        # name, cosine, correlation of the heatmaps
        "worst": [
            [printable(images.names[n]), float(each.cosine[n]), float(each.correlation[n])]
            for n in each.worst(_WORST_IMAGES)
        ],
    }


def gate_text(document: dict[str, Any]) -> str:
    """The signed report as lines to read."""
    report = document["report"]
    device, figures, images = report["device"], report["figures"], report["images"]
    where = device["gpu"] if device["runs_on"] != "cpu" else f"the CPU ({device['machine']})"
    lines = [
        f"foldcam gate: {'PASSED' if report['passed'] else 'FAILED'}",
        *(f"  {failure}" for failure in report["failures"]),
        *([f"WARNING    {wrong}"] if (wrong := report.get("accepted_wrong")) else []),
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
        *_contribution_lines(figures),
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


def _contribution_lines(figures: dict[str, Any]) -> list[str]:
    if figures["contribution_correlation_mean"] is None:
        return []
    return [
        "evidence   contributions, correlation "
        f"{_shown(figures['contribution_correlation_mean'])} mean, "
        f"{_shown(figures['contribution_correlation_p5'])} at 5 %, "
        f"{_shown(figures['contribution_correlation_worst'])} worst"
    ]


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


def _ready(image: Image, contract: Contract) -> Array:
    """An image at the size that the model takes as a batch of one, as the contract's `image`."""
    return ModelInput(contract).ready(image[None])
