"""Known against unknown: every score's shares accepted, curves, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap_of, paired_bootstrap_of
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.openset.folds import (
    ScoredFold,
    curve,
    least_accepted,
    mean_auroc,
    reached_from_rows,
    reached_on_halves,
    scored,
    unknown_accepted,
)
from foldcam.benchmarks.evaluation.openset.scores import SCORES
from foldcam.benchmarks.evaluation.openset.subject import Asked
from foldcam.export.banks.unknown.rows import DEVICE_SCORES

BASELINE = "similarity"
_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class OpensetOptions:
    """How it is measured."""

    # the share of known images that is accepted where unknown ones are counted
    accept: float = 0.95
    draws: int = 2000  # bootstrap resamples
    halves: int = 200  # drawn halves of the known images, for what a chosen threshold reaches
    seed: int = 0  # of all draws


def run_openset(
    asked: Asked, options: OpensetOptions, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure every score.

    Returns:
        A JSON document; `scores.NAME` has `unknown_accepted` and `auroc` with intervals over
        images, their `difference` from the similarity's, `equal_error`, `curve`, `reached` and
        `per_label`.
    """
    count = len(asked.labels)
    every = {name: scored(asked.settings, score) for name, score in SCORES.items()}
    missing = [name for name, folds in every.items() if not folds]
    every = {name: folds for name, folds in every.items() if folds}
    measured: dict[str, Any] = {}
    for number, (name, folds) in enumerate(every.items()):
        measured[name] = {
            **_intervals(folds, every[BASELINE], count, options),
            **_curve(folds),
            "reached": _reached(asked, name, folds, options),
            "per_label": _per_label(folds, asked.labels, options.accept),
        }
        if progress:
            progress("scores", number + 1, len(every))
    first = every[BASELINE]
    strange = np.any([fold.unknown & fold.asked for fold in first], axis=0)
    ordinary = np.any([~fold.unknown & fold.asked for fold in first], axis=0)
    notes = list(asked.notes)
    if missing:
        notes.append(f"The bank's rows cannot give {', '.join(missing)}.")
    best = max(measured, key=lambda name: measured[name]["auroc"]["mean"])
    on_device = [name for name in DEVICE_SCORES if name in measured]
    return {
        "accept": options.accept,
        "known_images": int(ordinary.sum()),
        "unknown_images": int(strange.sum()),
        "unknown_source": asked.unknown_source,
        "settings": len(asked.settings),
        "left_out": [list(group) for group in asked.groups],
        "bank_rows": [len(setting.rows.units) for setting in asked.settings],
        "scores": measured,
        "best": best,
        "best_on_device": max(on_device, key=lambda name: measured[name]["auroc"]["mean"]),
        "notes": notes,
        "skipped": [{"path": path, "reason": reason} for path, reason in asked.skipped],
    }


def _intervals(
    folds: Sequence[ScoredFold], baseline: Sequence[ScoredFold], count: int, options: OpensetOptions
) -> dict[str, Any]:
    def of(
        statistic: Callable[[Sequence[ScoredFold], Any], float], mine: Sequence[ScoredFold]
    ) -> Callable[[Any], float]:
        return lambda drawn: statistic(mine, np.bincount(drawn, minlength=count))

    def accepted(mine: Sequence[ScoredFold], counts: Any) -> float:
        return unknown_accepted(mine, options.accept, counts)

    document: dict[str, Any] = {"difference": {}}
    for name, statistic in (("unknown_accepted", accepted), ("auroc", mean_auroc)):
        mine = of(statistic, folds)
        interval = bootstrap_of(mine, count, options.draws, options.seed)
        document[name] = asdict(interval)
        less: Interval | None = None
        if folds is not baseline:
            less = paired_bootstrap_of(
                mine, of(statistic, baseline), count, options.draws, options.seed
            )
        document["difference"][name] = None if less is None else asdict(less)
    return document


def _curve(folds: Sequence[ScoredFold]) -> dict[str, Any]:
    accepted = curve(folds, _GRID)
    # Where both errors are equal, on the straight line between two points of the grid.
    gap = np.asarray(accepted) - _GRID
    crossing = int(np.argmax(gap <= 0.0))
    before, after = gap[max(crossing - 1, 0)], gap[crossing]
    step = before / (before - after) if before > after else 0.0
    equal = _GRID[max(crossing - 1, 0)] + step * (_GRID[1] - _GRID[0])
    return {
        "equal_error": float(equal),
        "curve": {"false_reject": [round(float(x), 4) for x in _GRID],
                  "false_accept": [round(value, 4) for value in accepted]},
    }  # fmt: skip


def _reached(
    asked: Asked, name: str, folds: Sequence[ScoredFold], options: OpensetOptions
) -> dict[str, Any]:
    """Chosen against reached: on other halves, and of thresholds chosen from the bank's rows."""
    halves = reached_on_halves(folds, options.accept, options.halves, options.seed)
    low, high = np.quantile(halves, [0.025, 0.975], axis=0)
    document: dict[str, Any] = {
        "held_out_halves": {
            kind: {"mean": float(halves[:, place].mean()), "low": float(low[place]),
                   "high": float(high[place])}
            for place, kind in enumerate(("known_accepted", "unknown_accepted"))
        }
    }  # fmt: skip
    if name in DEVICE_SCORES:
        rows = reached_from_rows(asked.settings, folds, SCORES[name], options.accept)
        if rows is not None:
            document["bank_rows_left_out"] = {
                "known_accepted": rows[0], "unknown_accepted": rows[1]
            }  # fmt: skip
    return document


def _per_label(
    folds: Sequence[ScoredFold], labels: Sequence[str], accept: float
) -> dict[str, dict[str, Any]]:
    """Of each label the share accepted where it is known, and where it is unknown."""
    names = np.asarray(labels, object)
    passed: dict[str, dict[str, list[float]]] = {}
    for fold in folds:
        threshold = least_accepted(fold.scores[fold.asked & ~fold.unknown], accept)
        for label in sorted({str(name) for name in names[fold.asked]}):
            mine = fold.asked & (names == label)
            for kind, mask in (("known", mine & ~fold.unknown), ("unknown", mine & fold.unknown)):
                if mask.any():
                    shares = passed.setdefault(label, {}).setdefault(kind, [])
                    shares.extend((fold.scores[mask] >= threshold).astype(float))
    return {
        label: {
            "images": int((names == label).sum()),
            **{f"{kind}_accepted": float(np.mean(shares)) for kind, shares in kinds.items()},
        }
        for label, kinds in sorted(passed.items())
    }
