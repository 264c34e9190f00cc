"""Losses of each map beside those of its controls, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import (
    IndexStatistic,
    Interval,
    bootstrap,
    bootstrap_of,
)
from foldcam.benchmarks.evaluation.explanation.controls import CONTROLS
from foldcam.benchmarks.evaluation.explanation.damage import SHARES, Damage
from foldcam.benchmarks.evaluation.explanation.scoring import SCORES
from foldcam.benchmarks.evaluation.localization.perturbation import CurvePool, PerturbationCurves

Doubles = npt.NDArray[np.float64]

MEASURES = ("contrast_lost", "label_lost", "margin_lost")
HEADLINE = 0.2
"""The share of cells that tables and verdict speak of."""

_CONTRAST, _MARGIN, _RIGHT = (SCORES.index(name) for name in ("contrast", "margin", "right"))


def losses(damage: Damage, name: str, measure: str) -> Doubles:
    """`float64 [N, shares, controls]`: what one method's maps and their controls cost.

    Labels are lost only where they are right before: there N is smaller.

    Args:
        damage: of all methods.
        name: the method.
        measure: one of `MEASURES`.
    """
    after = damage.after[name]
    if measure == "label_lost":
        right = damage.before[:, _RIGHT] > 0
        lost: Doubles = 1.0 - after[right][..., _RIGHT]
        return lost
    score = _CONTRAST if measure == "contrast_lost" else _MARGIN
    return np.asarray(damage.before[:, None, None, score] - after[..., score])


def damage_document(damage: Damage, draws: int) -> dict[str, Any]:
    """Method -> share in percent -> measure -> interval of the losses and of their differences.

    Keys of the last: each of `CONTROLS`, `minus_other` and `minus_shifted`. A measure without a
    picture (no label is right) is left out.
    """
    return {
        name: {
            percent(share): {
                measure: _compared(found[:, step], draws)
                for measure in MEASURES
                if len(found := losses(damage, name, measure))
            }
            for step, share in enumerate(SHARES)
        }
        for name in damage.after
    }


def versus_document(damage: Damage, draws: int) -> dict[str, Any]:
    """The first method's losses minus those of each other method: method -> measure -> interval."""
    first, *others = damage.after
    step = SHARES.index(HEADLINE)
    return {
        name: {
            measure: interval_document(
                bootstrap(ours[:, step, 0] - losses(damage, name, measure)[:, step, 0], draws=draws)
            )
            for measure in MEASURES
            if len(ours := losses(damage, first, measure))
        }
        for name in others
    }


def curves_document(
    curves: Mapping[str, Sequence[PerturbationCurves]], draws: int
) -> dict[str, Any]:
    """Method -> `insertion` and `deletion`.

    Left out where pictures that are blurred as a whole have no less contrast, on all pictures or
    on some resample of them: there is then nothing to take a share of.
    """
    document = {}
    for name, found in curves.items():
        pool = CurvePool(found)
        try:
            document[name] = {
                metric: interval_document(bootstrap_of(_area(pool, place), len(found), draws))
                for place, metric in enumerate(("insertion", "deletion"))
            }
        except ValueError:
            continue  # undefined on these pictures, or on some that are drawn from them
    return document


def percent(share: float) -> str:
    """`20` of 0.2."""
    return f"{100 * share:.0f}"


def interval_document(interval: Interval) -> dict[str, float]:
    """Mean, low, high, rounded to what the sample can tell."""
    return {
        "mean": round(interval.mean, 5),
        "low": round(interval.low, 5),
        "high": round(interval.high, 5),
    }


def _compared(values: Doubles, draws: int) -> dict[str, Any]:
    """Of losses `float64 [N, controls]`."""
    columns = {name: values[:, place] for place, name in enumerate(CONTROLS)}
    for name in CONTROLS[1:]:
        columns[f"minus_{name}"] = columns["own"] - columns[name]
    return {
        name: interval_document(bootstrap(column, draws=draws)) for name, column in columns.items()
    }


def _area(pool: CurvePool, place: int) -> IndexStatistic:
    return lambda drawn: pool.areas(drawn)[place]
