"""The whole calibration as one call: folded model + images -> INT8 candidate and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from foldcam.calibrate.gptq import gptq_levels
from foldcam.calibrate.ladder import Rung, climb, rank_layers
from foldcam.calibrate.placement import Target, find_placement
from foldcam.calibrate.qdq import Levels, Recipe, Step, float16_steps, quantize, with_float16
from foldcam.calibrate.quality import Damage, Gate
from foldcam.calibrate.selection import Pictures, read_pictures, select
from foldcam.calibrate.session import Images, Runner
from foldcam.calibrate.source import check_names, read_source, with_frame
from foldcam.calibrate.statistics import Activation, Method, Store, gather, key_of, tools
from foldcam.calibrate.tuning import Choice, best_recipe, choose_steps
from foldcam.export.grafting.in_graph import contract_of, write_contract
from foldcam.export.grafting.probes import canary_of, write_canary
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Calibration, Contract, Precision
from foldcam.runtime.measurement.comparison.figures import Answered, GateFigures, PerImage
from foldcam.runtime.measurement.comparison.interleaved import Ratio, ratio_of, seconds_interleaved
from foldcam.runtime.measurement.comparison.verdict import GateLimits, failures_of
from foldcam.runtime.system.files import digest_of, sha256_of_file


@dataclass(frozen=True)
class CalibrationOptions:
    """What the user decides of a calibration.

    Attributes:
        count, choice_count, gate_count: images at most, to calibrate on, to choose by, and to
            judge by.
        seed: of their choice.
        method: of all thresholds; None chooses for each activation by measured damage.
        keep_float: `none`, `auto`, or names of layers.
        correct_biases: whether bias correction is tried.
        gptq: whether rounding weights by GPTQ is tried.
        target: whose form the model has; speed is measured for `cpu`.
        float_type: of the weighted layers that are not quantized and of what lies between them.
        limits: of the gate.
    """

    count: int = 128
    choice_count: int = 128
    gate_count: int = 256
    seed: int = 0
    method: Method | None = None
    keep_float: tuple[str, ...] = ("auto",)
    correct_biases: bool = True
    gptq: bool = True
    target: Target = "tensorrt"
    float_type: Precision = "fp32"
    limits: GateLimits = field(default_factory=GateLimits)

    def document(self) -> dict[str, Any]:
        """For the report."""
        return {
            **asdict(self),
            "method": self.method or "auto",
            "keep_float": list(self.keep_float),
            "limits": asdict(self.limits),
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a calibration came to.

    Attributes:
        model: the candidate that was taken, with its metadata; not to be shipped unless
            `passed`.
        contract: of `model`.
        report: everything that equal inputs repeat; its hash is in the contract.
        ladder: every candidate that was tried, with its figures on the images to choose by.
        chosen: the one that `model` is.
        figures: of `model`, on the images that judge.
        each: the same per image.
        answers: what it answered there.
        gate: those images and the float model's answers.
        speeds: of each rung of the ladder; empty where speed was not measured.
        failures: what is outside the limits, speed included.
    """

    model: onnx.ModelProto
    contract: Contract
    report: dict[str, Any]
    ladder: list[Rung]
    chosen: Rung
    figures: GateFigures
    each: PerImage
    answers: Answered
    gate: Gate
    speeds: list[Ratio]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it may be shipped."""
        return not self.failures

    @property
    def speed(self) -> Ratio | None:
        """Of `model`; None where it was not measured."""
        return self.speeds[self.ladder.index(self.chosen)] if self.speeds else None


Progress = Callable[[str, int, int], None]

# Images on which candidates are searched by, taken from those that calibrate.
_DAMAGE_IMAGES = 16


def calibrate(
    path: Path,
    data: Path,
    options: CalibrationOptions | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
    device: Device = CPU,
) -> Outcome:
    """Quantize a folded model, keep layers in float until it is good enough, and judge it.

    Three sets of images take part, which share none: thresholds and the like come from the
    first, the layers in float are chosen on the second, and the third judges the one candidate
    that was chosen, once.

    Args:
        path: the folded model, float32.
        data: labelled images, see `selection.select`.
        options: what the user decides.
        store: where results of the long steps are kept for a later run.
        progress: called with the step, how much of it is done, and how much there is.
        device: where models run; with `target` cpu candidates are judged on the processor.

    Raises:
        FoldcamError: model or images cannot be used, see the modules.
    """
    options, store = options or CalibrationOptions(), store or Store(None)
    return _Job(path, data, options, store, progress, device).run()


class _Job:
    """One calibration: reads everything first, then the long steps, each kept when it is done."""

    def __init__(
        self,
        path: Path,
        data: Path,
        options: CalibrationOptions,
        store: Store,
        progress: Progress | None,
        device: Device,
    ) -> None:
        self._options, self._store = options, store
        self._progress: Progress = progress or (lambda *_: None)
        self._model, self._contract = read_source(path)
        self._frame = read_contract(path).frame
        self._placement = find_placement(self._model, options.target)
        self._names = [layer.name for layer in self._placement.layers]
        check_names(options.keep_float, self._names)
        recipe = self._contract.preprocessing
        parts = select(
            data, options.count, options.choice_count, options.gate_count, options.seed,
            continuous=self._contract.outcome is not None,
        )  # fmt: skip
        self._notes = parts.notes
        self._images = read_pictures(parts.calibration, recipe)
        self._choosers = read_pictures(parts.choice, recipe)
        self._judges = read_pictures(parts.gate, recipe)
        self._inputs = {
            "model": sha256_of_file(path),
            "images": self._images.sha256,
            "preprocessing": asdict(recipe),
            "target": options.target,
            "tools": tools(),
        }
        self._device = device
        if device.gpu:
            # Sums in another order: what was kept on the processor is not what is found here.
            self._inputs["device"] = device.text
        self._candidates: dict[tuple[str, ...], onnx.ModelProto] = {}

    def run(self) -> Outcome:
        options = self._options
        found = self._statistics()
        step = max(1, len(self._images.resized) // _DAMAGE_IMAGES)
        few = self._images.resized[::step][:_DAMAGE_IMAGES]
        damage = Damage(self._model, self._contract, few, self._device)
        choices = self._choices(found, damage)
        steps = {name: choice.step for name, choice in choices.items()}
        recipe, tried = best_recipe(
            self._model, self._placement, steps, found, damage,
            correct_biases=options.correct_biases, levels=self._levels(),
        )  # fmt: skip
        chooser = self._gate(self._choosers, "choosing, float model")
        ladder, ranking = self._ladder(recipe, chooser, damage)
        chosen = next((rung for rung in ladder if not rung.failures), ladder[-1])
        model = self._candidates[chosen.kept]
        gate = self._gate(self._judges, "gate, float model")
        figures, each, answers = gate.figures(
            model, kernels=self._kernels, progress=self._step("gate")
        )
        report = {
            **self._report(choices, ladder, chosen, ranking),
            "damage": tried,
            "float16_steps": float16_steps(model),
            "gate": {"figures": figures.document(),
                     "failures": failures_of(figures, options.limits)},
        }  # fmt: skip
        self._sign(model, report, chosen)
        framed = with_frame(model, self._frame)
        speeds = self._speeds(ladder)
        ratio = speeds[ladder.index(chosen)].ratio if speeds else None
        return Outcome(
            model=framed,
            contract=contract_of(framed),
            report=report,
            ladder=ladder,
            chosen=chosen,
            figures=figures,
            each=each,
            answers=answers,
            gate=gate,
            speeds=speeds,
            failures=tuple(failures_of(figures, options.limits, ratio)),
        )

    def _gate(self, pictures: Pictures, step: str) -> Gate:
        return Gate(self._model, self._contract, pictures, self._device, self._step(step))

    def _step(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(name, done, total)

    @property
    def _kernels(self) -> bool:
        return self._options.target == "cpu"

    def _limits_to_choose_by(self) -> GateLimits:
        return self._options.limits.to_choose_by(len(self._choosers.samples))

    def _statistics(self) -> dict[str, Activation]:
        key = key_of(stage="ranges", **self._inputs)
        tensors = self._placement.tensors(self._model)
        found = self._store.statistics(key)
        if found is None or list(found) != tensors:
            names = [sample.name for sample in self._images.samples]
            found = gather(
                self._model, self._contract, tensors, self._images.resized, self._progress, names,
                self._device,
            )  # fmt: skip
            self._store.keep_statistics(key, found)
        return found

    def _choices(self, found: dict[str, Activation], damage: Damage) -> dict[str, Choice]:
        method, target = self._options.method, self._options.target
        key = key_of(stage="thresholds", method=method, **self._inputs)
        # Kept after each activation: an interrupted run goes on with the next.
        known = {item["tensor"]: Choice(**{**item, "step": Step(**item["step"])})
                 for item in self._store.json(key) or ()}  # fmt: skip
        return choose_steps(
            self._model, found, damage, target, method, self._progress, known,
            lambda chosen: self._store.keep_json(key, [asdict(each) for each in chosen.values()]),
        )  # fmt: skip

    def _levels(self) -> dict[str, Levels] | None:
        if not self._options.gptq:
            return None
        key = key_of(stage="gptq", **self._inputs)
        levels = self._store.arrays(key)
        if levels is None:
            levels = gptq_levels(
                self._model, self._contract, self._placement, self._images.resized,
                self._progress, self._device,
            )  # fmt: skip
            self._store.keep_arrays(key, levels)
        return levels

    def _ranking(self, recipe: Recipe, damage: Damage) -> list[tuple[str, float]]:
        key = key_of(
            stage="sensitivity",
            method=self._options.method,
            biases=bool(recipe.biases),
            gptq=bool(recipe.levels),
            **self._inputs,
        )
        return rank_layers(
            self._model, self._placement, recipe, damage, self._progress, self._store.json(key),
            lambda found: self._store.keep_json(key, found),
        )  # fmt: skip

    def _ladder(
        self, recipe: Recipe, chooser: Gate, damage: Damage
    ) -> tuple[list[Rung], list[tuple[str, float]]]:
        limits = self._limits_to_choose_by()

        def measure(kept: tuple[str, ...]) -> Rung:
            step = self._step(f"choosing, {len(kept)} layers in float")
            candidate = quantize(
                self._model, self._placement, replace(recipe, kept=frozenset(kept))
            )
            if self._options.float_type == "fp16":
                candidate = with_float16(candidate)
            figures, _, _ = chooser.figures(candidate, kernels=self._kernels, progress=step)
            self._candidates[kept] = candidate
            return Rung(kept, candidate.ByteSize(), figures, tuple(failures_of(figures, limits)))

        wanted = self._options.keep_float
        if wanted != ("auto",):
            return [measure(() if wanted == ("none",) else wanted)], []
        first = measure(())
        if not first.failures:
            return [first], []
        ranking = self._ranking(recipe, damage)
        return climb([name for name, _ in ranking], first, measure), ranking

    def _sign(self, model: onnx.ModelProto, report: dict[str, Any], chosen: Rung) -> None:
        """Put key and hash of the report into the model's metadata."""
        contract = replace(
            contract_of(model),
            precision="fp16" if report["float16_steps"] else "fp32",
            calibration=Calibration(
                str(report["key"]), digest_of(report), len(chosen.kept), self._options.target
            ),
        )
        write_contract(model, contract)
        # Those of the float model are answered by the quantized one itself.
        write_canary(model, canary_of(model))
        onnx.checker.check_model(model, full_check=True)

    def _speeds(self, ladder: list[Rung]) -> list[Ratio]:
        if self._options.target != "cpu":
            return []
        models = [self._candidates[rung.kept] for rung in ladder]
        self._progress("speed", 0, 1)
        speeds = compare_speed(self._model, models, self._contract, self._judges.resized)
        self._progress("speed", 1, 1)
        return speeds

    def _report(
        self,
        choices: dict[str, Choice],
        ladder: list[Rung],
        chosen: Rung,
        ranking: list[tuple[str, float]],
    ) -> dict[str, Any]:
        parts = {"choice_images": self._choosers, "gate_images": self._judges}
        hashes = {name: pictures.sha256 for name, pictures in parts.items()}
        settings = self._options.document()
        everything = (self._images, self._choosers, self._judges)
        return {
            "key": key_of(settings=settings, **hashes, **self._inputs),
            "settings": settings,
            "inputs": {**self._inputs, **hashes},
            "calibration_images": len(self._images.samples),
            **{name: len(pictures.samples) for name, pictures in parts.items()},
            "skipped": [Path(item.path).name for part in everything for item in part.skipped],
            "data_notes": list(self._notes),
            "quantized_layers": len(self._names) - len(chosen.kept),
            "kept_float": list(chosen.kept),
            "float_bytes": self._model.ByteSize(),
            "activations": [asdict(choice) for choice in choices.values()],
            "sensitivity": [list(item) for item in ranking],
            "limits_to_choose_by": asdict(self._limits_to_choose_by()),
            "ladder": [rung.document() for rung in ladder],
        }


def compare_speed(
    reference: onnx.ModelProto,
    candidates: Sequence[onnx.ModelProto],
    contract: Contract,
    images: Images,
    rounds: int = 30,
) -> list[Ratio]:
    """Time all models alternately on single images with ONNX Runtime's kernels.

    The clock is the thread's own: it does all the work, and the machine may be busy.

    Returns:
        Time of the float model over that of each candidate, in their order.
    """
    runs = [_run(model, contract, images) for model in (reference, *candidates)]
    seconds = seconds_interleaved(runs, rounds, clock=time.thread_time)
    return [ratio_of(seconds[:, 0], seconds[:, place]) for place in range(1, len(runs))]


def _run(model: onnx.ModelProto, contract: Contract, images: Images) -> Callable[[int], object]:
    runner = Runner(model, contract, kernels=True, batch=1)
    return lambda turn: list(runner.batches(images[turn % len(images)][None]))
