"""`foldcam evaluate localization` as one call: train, export, measure, write."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import (
    Progress,
    intervals_document,
    write_json,
    write_text,
)
from foldcam.benchmarks.evaluation.localization.checks import randomization, stability
from foldcam.benchmarks.evaluation.localization.evaluate import (
    Runner,
    Scores,
    Statistic,
    differences,
    evaluate_localization,
    grid_scores,
)
from foldcam.benchmarks.evaluation.localization.methods import METHODS, TRANSFERRED, Methods
from foldcam.benchmarks.evaluation.localization.report import (
    markdown_differences,
    markdown_table,
    plot_methods,
    write_sheets,
)
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, load_subjects
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.embedding_pass import embed
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset, Sample, load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.training.trainer import TrainingOptions, train
from foldcam.export.networks.cut import Network
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.schema import Baseline, GradWeightsRule
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

BASE = "efficientnet-lite0"
_UNSEEN_LABELS = 2
_TIMED_RUNS = 3


@dataclass(frozen=True)
class StudyOptions:
    """What is measured."""

    model: str | None = None  # MODEL to explain, or None to train one
    weights: Path | None = None  # its weights
    preprocessing: Preprocessing | None = None  # overrides the network's own
    training: TrainingOptions = field(default_factory=TrainingOptions)  # how one is trained
    seed: int = 0  # of splits, grids and triplets
    draws: int = 2000  # of the bootstrap
    unseen: bool = True  # whether a second network is trained without two of the labels
    # as in `export_model`; None chooses by the kind of head
    grad_weights: GradWeightsRule | None = None
    baseline: Baseline | None = None  # as in `FoldOptions`; None chooses by the kind of head
    device: Device = CPU  # where networks run and are asked; training has a choice of its own


def run_study(data: Path, out: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Measure localization on a data set with boxes; everything is written to `out`.

    Args:
        data: a CUB-200-2011 folder, or a CSV with boxes. Without a split of its own, a seeded third
            of each label is the test part.
        out: folder of results: `localization.json`, tables, plot, contact sheets, and the trained
            network and folded model.
    """
    started = time.monotonic()
    training, testing = split_samples(data, options.seed)
    loaded = _network(training, out / "net.safetensors", options, progress)
    recipe = options.preprocessing or loaded.preprocessing
    test, train_subjects = load_subjects(testing, recipe), load_subjects(training, recipe)
    model = out / "model.onnx"
    report = export_model(
        loaded,
        Dataset(data.resolve().name, "train", tuple(training)),
        model,
        parse_objective("all-triplets"),
        preprocessing=recipe,
        grad_weights=options.grad_weights,
        options=FoldOptions(baseline=options.baseline),
        progress=progress,
    )
    network = loaded.network(report.contract.layer, (recipe.height, recipe.width))
    bank = bank_of(load_message(model), report.contract)
    result = evaluate_localization(
        network,
        bank,
        model,
        recipe,
        test,
        train_subjects,
        seed=options.seed,
        draws=options.draws,
        provider=options.device.provider,
        progress=progress,
    )
    document: dict[str, Any] = {
        "data": data.resolve().name,
        "images": {"train": len(training), "test": result.images},
        "labels": len({sample.label for sample in training}),
        "network": options.model or f"{BASE}, fine-tuned",
        "training": None if options.model else asdict(options.training),
        "input": [recipe.width, recipe.height],
        "feature_map": list(network.feature_map_shape),
        "explanation": None
        if report.contract.explanation is None
        else vars(report.contract.explanation),
        "recall_at_1": round(result.recall_at_1, 4),
        "methods": intervals_document(result.methods),
        "differences": intervals_document(result.differences),
        "stability": stability(network, bank, recipe, training, test, result.rows),
        "randomization": randomization(
            loaded.module,
            report.contract.layer,
            recipe,
            training,
            test,
            result.heatmaps,
            options.seed,
        ),
        "bank_building": _bank_building(network, recipe, training),
        "versions": tool_versions(),
    }
    if options.unseen and options.model is None:
        document["unseen"] = _unseen(training, test, out, options, progress)
    write_sheets(out, test, result)
    document["minutes"] = round((time.monotonic() - started) / 60, 1)
    write_results(out, document)
    return document


def write_results(out: Path, document: dict[str, Any]) -> None:
    """Write `localization.json`, `localization.md` and `localization.png`."""
    write_json(out / "localization.json", document)
    plot_methods(out / "localization.png", document)
    page = f"{markdown_table(document)}\n\n{markdown_differences(document)}\n"
    write_text(out / "localization.md", page)


def split_samples(data: Path, seed: int) -> tuple[list[Sample], list[Sample]]:
    """The data set's own split, or a seeded third of each label as the test part."""
    training = list(load_dataset(data, "train", boxes="truth").samples)
    testing = list(load_dataset(data, "test", boxes="truth").samples)
    seen = {sample.identity for sample in training}
    if all(sample.identity not in seen for sample in testing):
        return training, testing
    generator = np.random.default_rng(seed)
    everything = list(load_dataset(data, "all", boxes="truth").samples)
    training, testing = [], []
    for label in sorted({sample.label for sample in everything}):
        members = [sample for sample in everything if sample.label == label]
        order = generator.permutation(len(members))
        held = max(1, len(members) // 3)
        if len(members) < 3:
            raise FoldcamError(
                f"Label {label!r} has {len(members)} images: an evaluation needs at least three of "
                "each, two to train and one to test."
            )
        testing += [members[n] for n in order[:held]]
        training += [members[n] for n in order[held:]]
    return training, testing


def _network(
    training: Sequence[Sample], path: Path, options: StudyOptions, progress: Progress
) -> LoadedModel:
    if options.model is not None:
        return load_model(options.model, options.weights, device=options.device)
    train(
        load_model(BASE),
        training,
        path,
        options.training,
        preprocessing=options.preprocessing,
        progress=progress,
    )
    return load_model(str(path), device=options.device)


def _unseen(
    training: Sequence[Sample],
    test: Subjects,
    out: Path,
    options: StudyOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Labels whose rows are in the bank, but which the network never trained on."""
    labels = sorted({sample.label for sample in training})
    if len(labels) < _UNSEEN_LABELS + 2:
        return {}
    generator = np.random.default_rng([options.seed, 5])
    held = sorted(str(name) for name in generator.choice(labels, _UNSEEN_LABELS, replace=False))
    seen = [sample for sample in training if sample.label not in held]
    path = out / "net-unseen.safetensors"
    # Half the epochs: the whole evaluation is to take less than twenty minutes.
    epochs = max(1, options.training.epochs // 2)
    options = replace(options, training=replace(options.training, epochs=epochs))
    loaded = _network(seen, path, options, lambda stage, d, t: progress(f"{stage} (unseen)", d, t))
    recipe = options.preprocessing or loaded.preprocessing
    network = loaded.network(size=(recipe.height, recipe.width))
    bank = build_bank(network, recipe, training, parse_objective("all-triplets")).bank
    runner = Runner(network, Methods(network, bank), recipe, options.seed)
    rows = runner.similarities(bank, test.resized).argmax(axis=1).astype(np.int64)
    scores = {name: Scores(len(test)) for name in METHODS}
    grid_scores(runner, test, rows, scores, progress)
    asked = [n for n, label in enumerate(test.labels) if label in held]
    picked = {name: _only(scores[name], asked) for name in METHODS}
    names = np.asarray(bank.row_labels())
    others = {name: picked[name] for name in METHODS if name != TRANSFERRED}
    return {
        "labels": held,
        "epochs": epochs,
        "images": len(asked),
        "recall_at_1": float(np.mean(names[rows[asked]] == np.asarray(test.labels)[asked])),
        "methods": intervals_document(
            {name: picked[name].intervals(options.draws) for name in METHODS}
        ),
        "differences": intervals_document(differences(picked[TRANSFERRED], others, options.draws)),
    }


def _only(scores: Scores, asked: Sequence[int]) -> Scores:
    """The same metrics over some of the images."""
    chosen = np.asarray(asked, np.intp)

    def restricted(statistic: Statistic) -> Statistic:
        return lambda drawn: statistic(chosen[drawn])

    return Scores(
        len(chosen), {name: restricted(value) for name, value in scores.statistics.items()}
    )


def _bank_building(
    network: Network, recipe: Preprocessing, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Seconds of one embedding pass and of a whole bank, in turn, and their ratio."""
    ordered = sorted(samples, key=lambda sample: sample.label)
    passes, banks = [], []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        embed(network, recipe, ordered, batch_size=16)
        middle = time.perf_counter()
        build_bank(network, recipe, samples, parse_objective("all-triplets"))
        passes.append(middle - start)
        banks.append(time.perf_counter() - middle)
    return {
        "images": len(samples),
        "pass_seconds": [round(value, 3) for value in passes],
        "bank_seconds": [round(value, 3) for value in banks],
        "ratio": round(statistics.median(b / p for b, p in zip(banks, passes, strict=True)), 3),
    }
