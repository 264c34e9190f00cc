"""The whole calibration as one call: folded model + images -> INT8 candidate and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import onnx

from calibrate.ladder import Rung, climb, rank_layers
from calibrate.placement import Placement, Target, find_placement
from calibrate.qdq import Recipe, Step, quantize
from calibrate.quality import Damage, Gate
from calibrate.rebank import rebank
from calibrate.selection import read_pictures, select
from calibrate.speed import Speed, compare_speed
from calibrate.statistics import Activation, gather
from calibrate.store import Store, key_of, tools
from calibrate.thresholds import Method
from calibrate.tuning import Choice, best_recipe, choose_steps
from export.precision import is_float16
from export.stored_bank import bank_of
from runtime.contract import METADATA_KEY, Calibration, Contract
from runtime.errors import FoldcamError
from runtime.files import sha256_of_file
from runtime.gate import Answered, GateLimits, PerImage, failures_of
from runtime.onnx_file import read_contract

Progress = Callable[[str, int, int], None]
Judged = tuple[onnx.ModelProto, PerImage, Answered]

# Images on which candidates are searched by, taken from those that calibrate.
_DAMAGE_IMAGES = 16


@dataclass(frozen=True)
class Wishes:
    """What the user decides.

    Attributes:
        count, gate_count: images at most, to calibrate on and to judge by.
        seed: of their choice.
        method: of all thresholds; None chooses for each activation by measured damage.
        keep_float: `none`, `auto`, or names of layers.
        correct_biases: whether bias correction is tried.
        rebank: whether the bank is embedded again by the quantized network, if that helps.
        target: whose form the model has; speed is measured for `cpu`.
        limits: of the gate.
    """

    count: int = 128
    gate_count: int = 256
    seed: int = 0
    method: Method | None = None
    keep_float: tuple[str, ...] = ("auto",)
    correct_biases: bool = True
    rebank: bool = False
    target: Target = "tensorrt"
    limits: GateLimits = field(default_factory=GateLimits)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a calibration came to.

    Attributes:
        model: the best candidate, with its metadata; not to be shipped unless `passed`.
        contract: its contract.
        steps: of its activations.
        report: everything that equal inputs repeat; its hash is in the contract.
        ladder: every candidate that was judged.
        chosen: the one that `model` is.
        each: its figures per image.
        answers: what it answered.
        gate: the images and the float model's answers.
        speed: None where it was not measured.
        failures: what is outside the limits, speed included.
    """

    model: onnx.ModelProto
    contract: Contract
    steps: dict[str, Step]
    report: dict[str, Any]
    ladder: list[Rung]
    chosen: Rung
    each: PerImage
    answers: Answered
    gate: Gate
    speed: Speed | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether it may be shipped."""
        return not self.failures


def calibrate(
    path: Path,
    data: Path,
    wishes: Wishes | None = None,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Quantize a folded model, judge it, and keep layers in float until it passes.

    Args:
        path: the folded model, float32.
        data: labelled images, see `selection.select`.
        wishes: what the user decides.
        store: where results of the long steps are kept for a later run.
        progress: told what is being done.

    Raises:
        FoldcamError: model or images cannot be used, see the modules.
    """
    wishes = wishes or Wishes()
    job = _Job(path, data, wishes, store or Store(None), progress)
    return job.run()


class _Job:
    """One calibration: reads everything first, then the long steps, each kept when it is done."""

    def __init__(
        self, path: Path, data: Path, wishes: Wishes, store: Store, progress: Progress | None
    ) -> None:
        self._data, self._wishes, self._store, self._progress = data, wishes, store, progress
        self._contract = read_contract(path)
        self._model = _load(path)
        _check(path, self._model, self._contract)
        self._placement = find_placement(self._model, wishes.target)
        self._names = [layer.name for layer in self._placement.layers]
        _check_names(wishes.keep_float, self._names)
        recipe = self._contract.preprocessing
        continuous = self._contract.outcome is not None
        chosen = select(data, wishes.count, wishes.gate_count, wishes.seed, continuous=continuous)
        self._images = read_pictures(chosen.calibration, recipe)
        self._judges = read_pictures(chosen.gate, recipe)
        self._inputs = {
            "model": sha256_of_file(path),
            "images": self._images.sha256,
            "preprocessing": asdict(recipe),
            "target": wishes.target,
            "tools": tools(),
        }
        self._candidates: dict[tuple[str, ...], Judged] = {}

    def run(self) -> Outcome:
        wishes = self._wishes
        found = self._statistics()
        step = max(1, len(self._images.resized) // _DAMAGE_IMAGES)
        some = self._images.resized[::step][:_DAMAGE_IMAGES]
        damage = Damage(self._model, self._contract, some)
        choices = self._choices(found, damage)
        steps = {name: choice.step for name, choice in choices.items()}
        corrected: dict[str, float] = {}
        recipe = Recipe(steps)
        if wishes.correct_biases:
            recipe, corrected = best_recipe(self._model, self._placement, steps, found, damage)
        gate = Gate(self._model, self._contract, self._judges)
        ladder, ranking = self._ladder(recipe, gate, damage)
        chosen = next((rung for rung in ladder if not rung.failures), ladder[-1])
        judged = self._candidates[chosen.kept]
        rebanked = None
        if wishes.rebank:
            judged, chosen, rebanked = self._rebanked(judged, chosen, gate)
        model, each, answers = judged
        speed = None
        if wishes.target == "cpu":
            speed = compare_speed(self._model, model, self._contract, self._judges.resized)
        ratio = None if speed is None else speed.ratio
        report = self._report(choices, corrected, ladder, chosen, ranking, rebanked)
        contract = replace(
            read_contract_of(model),
            calibration=Calibration(
                str(report["key"]), key_of(report=report), len(chosen.kept), wishes.target
            ),
        )
        _write_contract(model, contract)
        onnx.checker.check_model(model, full_check=True)
        return Outcome(
            model=model,
            contract=contract,
            steps={name: steps[name] for name in self._rounded(chosen.kept)},
            report=report,
            ladder=ladder,
            chosen=chosen,
            each=each,
            answers=answers,
            gate=gate,
            speed=speed,
            failures=tuple(failures_of(chosen.figures, wishes.limits, ratio)),
        )

    def _statistics(self) -> dict[str, Activation]:
        key = key_of(stage="ranges", **self._inputs)
        tensors = self._placement.tensors(self._model)
        found = self._store.statistics(key)
        if found is None or list(found) != tensors:
            found = gather(
                self._model, self._contract, tensors, self._images.resized, self._progress
            )
            self._store.keep_statistics(key, found)
        return found

    def _choices(self, found: dict[str, Activation], damage: Damage) -> dict[str, Choice]:
        method, target = self._wishes.method, self._wishes.target
        key = key_of(stage="thresholds", method=method, **self._inputs)
        kept = self._store.json(key)
        if kept is not None:
            return {item["tensor"]: Choice(**{**item, "step": Step(**item["step"])})
                    for item in kept}  # fmt: skip
        choices = choose_steps(self._model, found, damage, target, method, self._progress)
        self._store.keep_json(key, [asdict(choice) for choice in choices.values()])
        return choices

    def _ranking(self, recipe: Recipe, damage: Damage) -> list[tuple[str, float]]:
        key = key_of(
            stage="sensitivity",
            method=self._wishes.method,
            biases=bool(recipe.biases),
            **self._inputs,
        )
        kept = self._store.json(key)
        if kept is not None:
            return [(str(name), float(value)) for name, value in kept]
        ranking = rank_layers(self._model, self._placement, recipe, damage, self._progress)
        self._store.keep_json(key, ranking)
        return ranking

    def _ladder(
        self, recipe: Recipe, gate: Gate, damage: Damage
    ) -> tuple[list[Rung], list[tuple[str, float]]]:
        def measure(kept: tuple[str, ...]) -> Rung:
            candidate = quantize(
                self._model, self._placement, replace(recipe, kept=frozenset(kept))
            )
            if self._progress is not None:
                self._progress(f"gate, {len(kept)} layers in float", 0, 1)
            kernels = self._wishes.target == "cpu"
            figures, each, answers = gate.figures(candidate, kernels=kernels)
            if self._progress is not None:
                self._progress(f"gate, {len(kept)} layers in float", 1, 1)
            self._candidates[kept] = candidate, each, answers
            failures = failures_of(figures, self._wishes.limits)
            return Rung(kept, candidate.ByteSize(), figures, tuple(failures))

        wanted = self._wishes.keep_float
        if wanted != ("auto",):
            return [measure(() if wanted == ("none",) else wanted)], []
        first = measure(())
        if not first.failures:
            return [first], []
        ranking = self._ranking(recipe, damage)
        return climb([name for name, _ in ranking], first, measure), ranking

    def _rebanked(
        self, judged: Judged, chosen: Rung, gate: Gate
    ) -> tuple[Judged, Rung, dict[str, Any]]:
        changed = rebank(self._model, judged[0], self._contract, self._data)
        kernels = self._wishes.target == "cpu"
        figures, each, answers = gate.figures(changed, kernels=kernels)
        before, after = chosen.figures, figures
        better = (after.recall or 0.0, after.neighbor_agreement) > (
            before.recall or 0.0,
            before.neighbor_agreement,
        )
        told = {"before": before.document(), "after": after.document(), "taken": better}
        if not better:
            return judged, chosen, told
        failures = tuple(failures_of(figures, self._wishes.limits))
        rung = replace(chosen, figures=figures, failures=failures, bytes=changed.ByteSize())
        return (changed, each, answers), rung, told

    def _rounded(self, kept: tuple[str, ...]) -> list[str]:
        """The activations of a candidate that are rounded."""
        layers = tuple(layer for layer in self._placement.layers if layer.name not in kept)
        names = {layer.name for layer in layers}
        joins = tuple(join for join in self._placement.joins if join.layer in names)
        return Placement(layers, joins).tensors(self._model)

    def _report(
        self,
        choices: dict[str, Choice],
        corrected: dict[str, float],
        ladder: list[Rung],
        chosen: Rung,
        ranking: list[tuple[str, float]],
        rebanked: dict[str, Any] | None,
    ) -> dict[str, Any]:
        wishes = self._wishes
        settings = {
            "count": wishes.count,
            "gate_count": wishes.gate_count,
            "seed": wishes.seed,
            "method": wishes.method or "auto",
            "keep_float": list(wishes.keep_float),
            "correct_biases": wishes.correct_biases,
            "rebank": wishes.rebank,
            "target": wishes.target,
            "limits": asdict(wishes.limits),
        }
        judges = self._judges.sha256
        return {
            "key": key_of(settings=settings, gate_images=judges, **self._inputs),
            "settings": settings,
            "inputs": {**self._inputs, "gate_images": judges},
            "calibration_images": len(self._images.samples),
            "gate_images": len(self._judges.samples),
            "skipped": [
                item.path.name for part in (self._images, self._judges) for item in part.skipped
            ],
            "quantized_layers": len(self._names) - len(chosen.kept),
            "kept_float": list(chosen.kept),
            "float_bytes": self._model.ByteSize(),
            "activations": [asdict(choice) for choice in choices.values()],
            "damage": corrected,
            "sensitivity": [list(item) for item in ranking],
            "ladder": [rung.document() for rung in ladder],
            "gate": chosen.document(),
            "rebank": rebanked,
        }


def read_contract_of(model: onnx.ModelProto) -> Contract:
    """The contract of a folded model in memory."""
    from runtime.contract import parse_contract

    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    return parse_contract(entry.value, "the quantized model")


def _write_contract(model: onnx.ModelProto, contract: Contract) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    entry.value = contract.to_json()


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:
        # protobuf's own exceptions; the small reader has looked at the header only.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FoldcamError(f"{path} cannot be read as ONNX: {reason}") from error


def _check(path: Path, model: onnx.ModelProto, contract: Contract) -> None:
    if contract.calibration is not None:
        raise FoldcamError(
            f"{path} is quantized already: calibrate the float32 model that it was made from."
        )
    if contract.precision != "fp32" or is_float16(model):
        raise FoldcamError(
            f"{path} is in float16: export it with --precision fp32 and calibrate that."
        )
    bank_of(model, contract)


def _check_names(wanted: tuple[str, ...], names: list[str]) -> None:
    if wanted in (("none",), ("auto",)):
        return
    for name in wanted:
        if name not in names:
            near = get_close_matches(name, names, 3) or names[:3]
            raise FoldcamError(
                f"--keep-float: the network has no layer {name!r} that could be quantized; it has "
                f"{', '.join(near)} and others."
            )
