"""`foldcam evaluate explanation` as one call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.explanation.damage import (
    SCORES,
    SHARES,
    Damage,
    Scorer,
    blank_maps,
    blurred,
    controlled,
    other_pictures,
    ranks_of,
    replaced,
)
from foldcam.benchmarks.evaluation.explanation.data import Parts
from foldcam.benchmarks.evaluation.explanation.methods import METHODS
from foldcam.benchmarks.evaluation.explanation.report import (
    HEADLINE,
    Shown,
    curves_document,
    damage_document,
    notes_of,
    verdict,
    versus_document,
)
from foldcam.benchmarks.evaluation.explanation.subject import BATCH, Subject, View
from foldcam.export.banks.rows import held_hashes
from foldcam.export.datasets import Sample
from foldcam.export.exporting.exporter import HeadRule
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import LoadedModel
from foldcam.runtime.contract.schema import Baseline, GradWeightsRule
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]

_RIGHT = SCORES.index("right")
_SHOWN = 12


@dataclass(frozen=True)
class ExplanationOptions:
    """What is measured."""

    preprocessing: Preprocessing | None = None  # overrides the network's own
    layer: str | None = None  # name of the feature map, None to find it
    head_rule: HeadRule = "exact"  # see `foldcam.export.exporting.exporter.export_model`
    # see the same; None takes what is usual for the network
    grad_weights: GradWeightsRule | None = None
    baseline: Baseline | None = None  # see `FoldOptions`; None takes what is usual for the network
    seed: int = 0  # of controls, of equal cells and of what methods draw
    draws: int = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was measured."""

    document: dict[str, Any]  # for `--json`
    shown: list[Shown]  # pictures with their maps, from those whose heat is worth most to least


def run_explanation(
    loaded: LoadedModel, parts: Parts, options: ExplanationOptions, progress: Progress
) -> Explanation:
    """Export the network, ask every method for its maps, and hide what they call hot."""
    started = time.monotonic()
    recipe = options.preprocessing or loaded.preprocessing
    with (
        tempfile.TemporaryDirectory(prefix="foldcam-explanation-") as folder,
        Subject(
            loaded, parts.training, Path(folder), preprocessing=recipe, layer=options.layer,
            head_rule=options.head_rule, grad_weights=options.grad_weights,
            baseline=options.baseline, seed=options.seed, progress=progress,
        ) as subject,
    ):  # fmt: skip
        kept, maps, skipped = _maps(subject, parts.testing.samples, progress)
        labels = [sample.label for sample in kept]
        ranks_on = partial(_ranks, maps, other_pictures(labels, options.seed), options.seed)
        scorer = Scorer(subject.bank)

        def views(number: int) -> View:
            return subject.view(kept[number])

        in_picture, curves = blurred(
            subject, scorer, views, labels, ranks_on(), partial(progress, "blurring")
        )
        shape = subject.network.feature_map_shape[1:]
        on_map, obstacle = None, None
        try:
            on_map = replaced(
                subject, scorer, views, labels, ranks_on(shape),
                partial(progress, "replacing on the feature map"),
            )  # fmt: skip
        except FoldcamError as error:
            obstacle = str(error)
        shown = _shown(subject, kept, maps, in_picture)
    progress("intervals", 0, 1)
    blank = {
        m.name: int(blank_maps(maps[m.name], m.evidence).sum()) for m in METHODS if m.name in maps
    }
    document = {
        "network": loaded.name,
        "data": parts.training.name,
        "images": {
            "train": len(subject.bank.embeddings),
            "test": len(kept),
            "right": int(in_picture.before[:, _RIGHT].sum()),
        },
        "labels": len({run.name for run in subject.bank.labels}),
        "input": [recipe.width, recipe.height],
        "layer": subject.network.layer,
        "feature_map": list(subject.network.feature_map_shape),
        "explanation": None if subject.explanation is None else vars(subject.explanation),
        "map": list(maps[METHODS[0].name].shape[1:]),
        "contrast": round(float(in_picture.before[:, 0].mean()), 5),
        "methods": list(maps),
        "blank": blank,
        "picture": damage_document(in_picture, options.draws),
        "on_feature_map": None if on_map is None else damage_document(on_map, options.draws),
        "curves": curves_document(curves, options.draws),
        "versus": versus_document(in_picture, options.draws),
        "seed": options.seed,
        "skipped": [{"path": path, "reason": reason} for path, reason in skipped],
        "versions": tool_versions(),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    document["notes"] = [*parts.notes, *notes_of(document, obstacle), *subject.notes]
    document["verdict"] = verdict(document)
    progress("intervals", 1, 1)
    return Explanation(document, shown)


def _maps(
    subject: Subject, samples: Sequence[Sample], progress: Progress
) -> tuple[list[Sample], dict[str, Floats], list[tuple[str, str]]]:
    """Every method's maps of the pictures that can be used, those pictures, and the others."""
    own = held_hashes(subject.bank)
    kept: list[Sample] = []
    skipped: list[tuple[str, str]] = []
    parts: list[dict[str, Floats]] = []
    for start in range(0, len(samples), BATCH):
        images = []
        for sample in samples[start : start + BATCH]:
            try:
                view = subject.view(sample)
            except FoldcamError as error:
                skipped.append((sample.name, str(error)))
                continue
            if view.sha256 in own:
                skipped.append((sample.name, "is in the bank itself"))
                continue
            images.append(view.image)
            kept.append(sample)
        if images:
            parts.append(subject.maps(images, range(len(kept) - len(images), len(kept))))
        progress("maps", min(start + BATCH, len(samples)), len(samples))
    if len({sample.label for sample in kept}) < 2:
        raise FoldcamError(
            f"{len(kept)} of {len(samples)} test images of fewer than two labels can be used"
            + (f"; the first that cannot: {skipped[0][0]} {skipped[0][1]}" if skipped else "")
            + ": give images that are not in the bank, of two labels at least, with --test."
        )
    maps = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return kept, maps, skipped


def _ranks(
    maps: dict[str, Floats],
    others: npt.NDArray[np.int64],
    seed: int,
    shape: tuple[int, int] | None = None,
) -> dict[str, npt.NDArray[np.intp]]:
    """Method -> `intp [N, controls, h, w]`."""
    return {
        method.name: controlled(ranks_of(maps[method.name], method.evidence, seed, shape), others)
        for method in METHODS
        if method.name in maps
    }


def _shown(
    subject: Subject, kept: Sequence[Sample], maps: dict[str, Floats], damage: Damage
) -> list[Shown]:
    """Pictures at equal steps from those whose own map costs most beyond another's to least."""
    first = METHODS[0].name
    lost = damage.before[:, 0, None] - damage.after[first][:, SHARES.index(HEADLINE), :, 0]
    order = np.argsort(lost[:, 1] - lost[:, 0], kind="stable")
    count = min(_SHOWN, len(order))
    evidence = frozenset(method.name for method in METHODS if method.evidence)
    shown = []
    for place in range(count):
        number = int(order[place * (len(order) - 1) // max(1, count - 1)])
        name = kept[number].label + ("" if damage.before[number, _RIGHT] else " (wrong)")
        shown.append(
            Shown(
                subject.view(kept[number]).image,
                f"costs {lost[number, 0]:.2f}, other {lost[number, 1]:.2f}: {name}",
                {name: each[number] for name, each in maps.items()},
                evidence,
            )
        )
    return shown
