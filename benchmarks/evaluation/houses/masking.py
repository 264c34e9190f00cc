"""Does the picture tell the truth? Blur what it calls raising, and see whether the estimate falls.

A fifth of the cells is blurred: the hottest of `heatmap`, or the hottest of `heatmap_lower`. The
controls blur as many cells: random ones, and those that the map of another house's photograph
(same kind) calls hottest, which have the shape and the preferences of a real map and know nothing
of this house. What is measured is the change of the folded model's log estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap
from foldcam.benchmarks.evaluation.houses.estimates import Answers, log_estimates, run
from foldcam.benchmarks.evaluation.localization.perturbation import CellBlur, Cells, hottest
from foldcam.runtime.model.folded_model import FoldedModel

Doubles = npt.NDArray[np.float64]

SHARE = 0.2
_CONTROLS = 4


def measure_masking(
    model: FoldedModel,
    answers: Answers,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Doubles]:
    """Change of each house's log estimate under each mask.

    Args:
        answers: for one photograph of each house, at least two houses.

    Returns:
        `float64 [H]` for `raising`, `lowering`, `random`, `other_raising` and
        `other_lowering`; the controls are means over four masks each.
    """
    generator = np.random.default_rng(seed)
    houses = len(answers.images)
    raising = [hottest(heat, SHARE, seed) for heat in answers.signed_heat]
    lowering = [hottest(-heat, SHARE, seed) for heat in answers.signed_heat]
    noise = [generator.random(answers.signed_heat.shape) for _ in range(_CONTROLS)]
    order = generator.permutation(houses)
    others = []
    for shift in range(1, min(_CONTROLS, houses - 1) + 1):
        other = np.empty(houses, np.int64)
        other[order] = np.roll(order, shift)
        others.append(other)
    masks: dict[str, list[list[Cells]]] = {
        "raising": [raising],
        "lowering": [lowering],
        "random": [[hottest(heat, SHARE, seed) for heat in draw] for draw in noise],
        "other_raising": [[raising[n] for n in other] for other in others],
        "other_lowering": [[lowering[n] for n in other] for other in others],
    }
    total, done = sum(map(len, masks.values())), 0
    changes = {}
    for name, variants in masks.items():
        parts = []
        for cells in variants:
            pictures = [
                CellBlur(image)(mask) for image, mask in zip(answers.images, cells, strict=True)
            ]
            parts.append(log_estimates(run(model, pictures)) - answers.log_estimates)
            done += 1
            on_progress(done, total)
        changes[name] = np.mean(parts, axis=0)
    return changes


def summarize(
    changes: Mapping[str, Mapping[str, Doubles]], draws: int
) -> dict[str, dict[str, Interval]]:
    """Means and rates with intervals, per kind and over all of a house's photographs.

    Args:
        changes: kind -> mask -> `float64 [H]`, as `measure_masking` returns them, the same houses
            in each.

    Returns:
        Kind (and `all`) -> name -> interval. Names: each mask; `raising_minus_random`,
        `raising_minus_other`, `lowering_minus_random`, `lowering_minus_other`; and the
        shares of photographs `raising_below_random`, `raising_below_other`,
        `lowering_above_random`, `lowering_above_other`.
    """
    per_kind = {kind: _compared(masks) for kind, masks in changes.items()}
    first = next(iter(per_kind.values()))
    everything = {
        name: np.mean([values[name] for values in per_kind.values()], axis=0) for name in first
    }
    return {
        kind: {name: bootstrap(values, draws=draws) for name, values in columns.items()}
        for kind, columns in {**per_kind, "all": everything}.items()
    }


def _compared(masks: Mapping[str, Doubles]) -> dict[str, Doubles]:
    columns = dict(masks)
    for own, sign, word in (("raising", 1, "below"), ("lowering", -1, "above")):
        for control, short in (("random", "random"), (f"other_{own}", "other")):
            difference = masks[own] - masks[control]
            columns[f"{own}_minus_{short}"] = difference
            columns[f"{own}_{word}_{short}"] = (sign * difference < 0).astype(np.float64)
    return columns
