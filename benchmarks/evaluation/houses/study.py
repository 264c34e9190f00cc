"""`foldcam evaluate house-price` as one call: train, export, estimate, mask, write."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import Progress, intervals_document
from foldcam.benchmarks.evaluation.houses import estimates as of
from foldcam.benchmarks.evaluation.houses.estimates import (
    FOLDED,
    METHODS,
    METRICS,
    SHARE,
    Answers,
    Doubles,
    differences,
    intervals,
    measure_masking,
    summarize,
    verdict,
)
from foldcam.benchmarks.evaluation.houses.houses import (
    KINDS,
    House,
    Houses,
    load_houses,
    split_houses,
)
from foldcam.benchmarks.evaluation.houses.report import Shown, write_report
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.datasets import Dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.training.trainer import TrainingOptions, train
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

BASE = "efficientnet-lite0"
OBJECTIVE = "kernel:tau=0.1"
COMBINED = "combined"
TRAINING = TrainingOptions(
    embedding_size=128,
    loss=OBJECTIVE,
    epochs=8,
    labels_per_batch=12,
    images_per_label=4,
    views=2,
    mosaics=0,
    mosaics_per_batch=0,
    learning_rate=5e-4,
    weight_decay=0.05,
)


@dataclass(frozen=True)
class StudyOptions:
    """What is measured."""

    training: TrainingOptions = TRAINING  # how the network is trained
    seed: int = 0  # of the split and of the masks
    draws: int = 2000  # of the bootstrap
    base: str = BASE  # MODEL to train from, whose features are the untrained baselines' embedding
    device: Device = CPU  # where networks run and are asked; training has a choice of its own


def run_study(data: Path, out: Path, options: StudyOptions, progress: Progress) -> dict[str, Any]:
    """Measure price estimates and their pictures; everything is written to `out`.

    Args:
        data: a folder of houses, see `load_houses`.
        out: folder of results: `house-price.json` and `.md`, scatter plot, contact sheet, the
            trained network and one folded model per kind of photograph.
    """
    # What is missing is said now, and not after minutes of training.
    for module in ("matplotlib", "scipy", "sklearn"):
        importlib.import_module(module)
    started = time.monotonic()
    houses = load_houses(data)
    training, test = split_houses(houses.houses, options.seed)
    loaded = _trained(training, out / "net.safetensors", options, progress)
    trained = time.monotonic()
    models = _folded(loaded, houses, training, out, progress)
    # Loaded again: training changed the weights of the first one.
    base = load_model(options.base, device=options.device)
    recipe = base.preprocessing
    untrained = base.network()

    answers: dict[str, Answers] = {}
    changes: dict[str, dict[str, Doubles]] = {}
    per_kind: dict[str, dict[str, Doubles]] = {}
    logs = np.log([house.price for house in training])
    with ExitStack() as stack:
        for number, kind in enumerate(KINDS):
            model = stack.enter_context(
                FoldedModel.load(models[kind], provider=options.device.provider)
            )
            answers[kind] = of.ask(model, test, kind, progress)
            raw = of.untrained_embeddings(
                untrained, recipe, [*training, *test], kind, _stage(progress, kind, "untrained")
            )
            bank = of.folded_bank(models[kind], model)
            assert bank.outcome is not None
            values = bank.outcome.values.astype(np.float64)
            before, after = raw[: len(training)], raw[len(training) :]
            per_kind[kind] = {
                FOLDED: answers[kind].log_estimates,
                "ridge_trained": of.ridge(answers[kind].embeddings, bank.embeddings, values),
                "ridge_untrained": of.ridge(after, before, logs),
                "knn_untrained": of.nearest_neighbors(after, before, logs, of.NEIGHBORS),
                "median": np.full(len(test), np.median(logs)),
            }
            changes[kind] = measure_masking(
                model, answers[kind], options.seed + number, _stage(progress, kind, "masks")
            )
    prices = np.log([house.price for house in test])
    kinds = {COMBINED: combined(per_kind), **per_kind}
    document = {
        "data": houses.name,
        "houses": {"train": len(training), "test": len(test), "left_out": list(houses.left_out)},
        "network": f"{options.base}, fine-tuned",
        "training": asdict(options.training),
        "objective": OBJECTIVE,
        "seed": options.seed,
        "draws": options.draws,
        **_tables(kinds, prices, options.draws, progress),
        "masking": intervals_document(summarize(changes, options.draws)),
        "masked_share": SHARE,
        "training_minutes": round((trained - started) / 60, 1),
        "versions": tool_versions(),
    }
    document["minutes"] = round((time.monotonic() - started) / 60, 1)
    estimates = {kind: methods[FOLDED] for kind, methods in kinds.items()}
    write_report(out, document, Shown(test, answers, estimates))
    return document


def combined(per_kind: dict[str, dict[str, Doubles]]) -> dict[str, Doubles]:
    """Method -> mean of the log estimates of a house's photographs."""
    return {
        name: np.mean([methods[name] for methods in per_kind.values()], axis=0) for name in METHODS
    }


def _tables(
    kinds: dict[str, dict[str, Doubles]], prices: Doubles, draws: int, progress: Progress
) -> dict[str, Any]:
    """`methods` and `differences`: method -> kind -> metric."""
    methods: dict[str, Any] = {name: {} for name in METHODS}
    versus: dict[str, Any] = {name: {} for name in METHODS if name != FOLDED}
    for number, (kind, found) in enumerate(kinds.items()):
        progress("bootstrap", number, len(kinds))
        scored = {name: intervals(found[name], prices, draws) for name in METHODS}
        for name, row in intervals_document(scored).items():
            methods[name][kind] = row
        others = {name: found[name] for name in versus}
        compared = differences(found[FOLDED], others, prices, draws)
        for name, row in intervals_document(compared).items():
            versus[name][kind] = {
                metric: {**row[metric], "verdict": verdict(metric, compared[name][metric])}
                for metric in METRICS
            }
    progress("bootstrap", len(kinds), len(kinds))
    return {"methods": methods, "differences": versus}


def _trained(
    houses: Sequence[House], path: Path, options: StudyOptions, progress: Progress
) -> LoadedModel:
    """One network for all kinds; each batch is of one kind."""
    samples = [house.sample(kind, math.log(house.price)) for house in houses for kind in KINDS]
    groups = [kind for _ in houses for kind in KINDS]
    base = load_model(options.base)
    train(base, samples, path, options.training, groups=groups, progress=progress)
    return load_model(options.base, path, device=options.device)


def _folded(
    loaded: LoadedModel,
    houses: Houses,
    training: Sequence[House],
    out: Path,
    progress: Progress,
) -> dict[str, Path]:
    """One folded model per kind of photograph, each with a bank of that kind."""
    models = {}
    for kind in KINDS:
        models[kind] = out / f"{kind}.onnx"
        samples = tuple(house.sample(kind) for house in training)
        report = export_model(
            loaded,
            Dataset(f"{houses.name}, {kind}", "train", samples),
            models[kind],
            parse_kernel(OBJECTIVE, "log"),
            progress=_of_kind(progress, kind),
        )
        if report.bank.skipped:
            first = report.bank.skipped[0]
            raise FoldcamError(f"{first.path}: {first.reason}")
    return models


def _of_kind(progress: Progress, kind: str) -> Progress:
    return lambda stage, done, total: progress(f"{kind}: {stage}", done, total)


def _stage(progress: Progress, kind: str, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(f"{kind}: {stage}", done, total)
