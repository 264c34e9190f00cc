"""Known against unknown: every score's shares accepted, curves, and intervals.

A fold is a bank, the images that are asked of it, and which of them show a label it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap_of, paired_bootstrap_of
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.openset.scores import SCORES
from foldcam.benchmarks.evaluation.openset.subject import Asked, Setting
from foldcam.export.banks.unknown.choosing import LeftOut, threshold_for, within_reach
from foldcam.export.banks.unknown.rows import DEVICE_SCORES, Doubles, RowScore

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ScoredFold:
    """One score in one setting."""

    scores: Doubles  # `float64 [Q]`
    # unknown, asked: as of the setting
    unknown: Mask
    asked: Mask
    # `float64 [U, K]`: 1 where known image k has a higher score than unknown image u, 0.5 where
    # they are equal
    above: Doubles

    @classmethod
    def of(cls, scores: Doubles, unknown: Mask, asked: Mask) -> ScoredFold:
        """Of scores `float64 [Q]`."""
        known, strange = scores[asked & ~unknown], scores[asked & unknown][:, None]
        above = (known > strange) + 0.5 * (known == strange)
        return cls(scores, unknown, asked, above)

    def drawn(self, counts: Places) -> tuple[Doubles, Places, Places]:
        """The known scores drawn, and how often each unknown and each known image was.

        Args:
            counts: `[Q]`, how often each image was drawn.
        """
        known, strange = self.asked & ~self.unknown, self.asked & self.unknown
        return np.repeat(self.scores[known], counts[known]), counts[strange], counts[known]

    @property
    def unknown_scores(self) -> Doubles:
        """Of the unknown images."""
        return self.scores[self.asked & self.unknown]


def scored(settings: Sequence[Setting], score: RowScore) -> list[ScoredFold]:
    """A score in every setting; empty where some rows cannot give it."""
    found = []
    for setting in settings:
        scores = score(setting.rows, setting.units)
        if scores is None:
            return []
        found.append(ScoredFold.of(scores, setting.unknown, setting.asked))
    return found


def least_accepted(known: Doubles, accept: float) -> float:
    """The highest threshold that so large a share of these images reaches; ties are accepted."""
    ordered = np.sort(known)
    return float(ordered[int(np.floor((1.0 - accept) * len(ordered) + 1e-9))])


def unknown_accepted(folds: Sequence[ScoredFold], accept: float, counts: Places) -> float:
    """The share of unknown images that pass where `accept` of the known ones do.

    Each fold has a threshold of its own, and each unknown image counts once.

    Args:
        accept: share of the known images.
        counts: `[Q]`, how often each image was drawn; ones for the images themselves.
    """
    passed = total = 0.0
    for fold in folds:
        known, weights, _ = fold.drawn(counts)
        if len(known) and weights.sum():
            threshold = least_accepted(known, accept)
            passed += float(weights[fold.unknown_scores >= threshold].sum())
            total += float(weights.sum())
    return passed / total if total else 0.0


def mean_auroc(folds: Sequence[ScoredFold], counts: Places) -> float:
    """The probability that a known image has a higher score than an unknown one; ties half.

    Args:
        counts: as of `unknown_accepted`.
    """
    won = total = 0.0
    for fold in folds:
        _, strange, known = fold.drawn(counts)
        if strange.sum() and known.sum():
            won += float(strange @ fold.above @ known) / float(known.sum())
            total += float(strange.sum())
    return won / total if total else 0.5


def curve(folds: Sequence[ScoredFold], rejected: Doubles) -> list[float]:
    """The share of unknown images accepted at each share of known images rejected.

    Args:
        folds: of one score; the shares of each are weighted by its unknown images.
        rejected: `float64 [n]`, shares of known images in [0, 1].
    """
    from sklearn.metrics import roc_curve

    summed, total = np.zeros(len(rejected)), 0
    for fold in folds:
        truth = ~fold.unknown[fold.asked]
        accepted, caught, _ = roc_curve(truth, fold.scores[fold.asked], drop_intermediate=False)
        # The least share of unknown images where at least so many known ones are accepted.
        first = np.searchsorted(caught, 1.0 - rejected - 1e-9)
        summed += accepted[np.minimum(first, len(accepted) - 1)] * len(fold.unknown_scores)
        total += len(fold.unknown_scores)
    return [float(value) for value in summed / max(total, 1)]


def reached_on_halves(
    folds: Sequence[ScoredFold], accept: float, draws: int, seed: int
) -> npt.NDArray[np.float64]:
    """What a threshold that was chosen on half of the known images accepts of all others.

    Args:
        accept: share of known images that it is chosen for, as `foldcam threshold` does.

    Returns:
        `float64 [draws, 2]`: the shares of known and of unknown images accepted.
    """
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        known_passed = known_count = strange_passed = strange_count = 0
        for fold in folds:
            known = generator.permutation(fold.scores[fold.asked & ~fold.unknown])
            half = (len(known) + 1) // 2
            threshold = threshold_for(known[:half], within_reach(accept, half))
            known_passed += int((known[half:] >= threshold).sum())
            known_count += len(known) - half
            strange_passed += int((fold.unknown_scores >= threshold).sum())
            strange_count += len(fold.unknown_scores)
        found.append((known_passed / max(known_count, 1), strange_passed / max(strange_count, 1)))
    return np.asarray(found, np.float64)


def reached_from_rows(
    settings: Sequence[Setting], folds: Sequence[ScoredFold], score: RowScore, accept: float
) -> tuple[float, float] | None:
    """What a threshold accepts that was chosen by leaving rows of the bank out.

    Returns:
        The shares of known and of unknown images accepted; None where no row can be left out.
    """
    passed, counts = [0, 0], [0, 0]
    for setting, fold in zip(settings, folds, strict=True):
        images = LeftOut(setting.rows)
        own = images.scores(score) if len(images.labels) else None
        if own is None:
            return None
        threshold = threshold_for(own, within_reach(accept, len(own)))
        for place, mask in enumerate((~fold.unknown, fold.unknown)):
            asked = fold.scores[fold.asked & mask]
            passed[place] += int((asked >= threshold).sum())
            counts[place] += len(asked)
    return passed[0] / max(counts[0], 1), passed[1] / max(counts[1], 1)


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
