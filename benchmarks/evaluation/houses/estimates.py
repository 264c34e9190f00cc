"""Price estimates of every method for the photographs of the same houses, and how good they are.

Estimates and prices are natural logarithms, `float64 [houses]`. Intervals resample houses: the
four photographs of a house are no independent evidence.

Whether the picture tells the truth is measured by blurring: a fifth of the cells is blurred, the
hottest of `heatmap`, or the hottest of `heatmap_lower`. The controls blur as many cells: random
ones, and those that the map of another house's photograph (same kind) calls hottest, which have
the shape and the preferences of a real map and know nothing of this house. What is measured is
the change of the folded model's log estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import (
    IndexArray,
    Interval,
    bootstrap,
    bootstrap_of,
    paired_bootstrap_of,
)
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.houses.houses import House
from foldcam.benchmarks.evaluation.localization.metrics import rank_correlation
from foldcam.benchmarks.evaluation.localization.perturbation import CellBlur, Cells, hottest
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.embedding_pass import embed
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.networks.cut import Network
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel, Result
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

FOLDED = "folded"
METHODS = (FOLDED, "ridge_trained", "ridge_untrained", "knn_untrained", "median")
NEIGHBORS = 10
_BATCH = 16
_ALPHAS = np.logspace(-4, 4, 33)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a folded model says of one photograph of each house."""

    images: list[Image]  # `uint8 [height, width, 3]` RGB, at the network's input size
    results: list[Result]  # the folded model's
    log_estimates: Doubles  # `float64 [H]`
    embeddings: Floats  # `float32 [H, D]`, of norm 1
    # `float32 [H, h, w]` in [-1, 1], `heatmap - heatmap_lower`: one of the two is zero
    # everywhere, so that nothing is lost
    signed_heat: Floats


def ask(model: FoldedModel, houses: Sequence[House], kind: str, progress: Progress) -> Answers:
    """Run a folded model over one photograph of each house."""
    recipe = model.contract.preprocessing
    images = [recipe.resized(read_image(house.photographs[kind]))[0] for house in houses]
    results = run(model, images, lambda done: progress(f"{kind}: estimates", done, len(images)))
    embeddings = np.stack([result.embedding for result in results])
    lowered = [result.heatmap_lower for result in results if result.heatmap_lower is not None]
    return Answers(
        images=images,
        results=results,
        log_estimates=log_estimates(results),
        embeddings=_unit(embeddings),
        signed_heat=np.stack([result.heatmap for result in results]) - np.stack(lowered),
    )


def run(
    model: FoldedModel, images: Sequence[Image], on_progress: Callable[[int], None] = lambda _: None
) -> list[Result]:
    """The folded model's results, in batches; `on_progress` is called with the images done."""
    results: list[Result] = []
    for start in range(0, len(images), _BATCH):
        results += model.run_batch(images[start : start + _BATCH])
        on_progress(len(results))
    return results


def log_estimates(results: Sequence[Result]) -> Doubles:
    """`float64 [N]`."""
    values = np.array([np.nan if r.estimate is None else r.estimate for r in results], np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise FoldcamError("The folded model gives an estimate that is no price.")
    return np.log(values)


def folded_bank(path: Path, model: FoldedModel) -> Bank:
    """The bank inside a folded model."""
    return bank_of(load_message(path), model.contract)


def untrained_embeddings(
    network: Network,
    preprocessing: Preprocessing,
    houses: Sequence[House],
    kind: str,
    progress: Callable[[int, int], None],
) -> Floats:
    """`float32 [H, D]` of norm 1: what the pretrained network makes of each house's photograph."""
    samples = [house.sample(kind) for house in houses]
    found = embed(network, preprocessing, samples, batch_size=_BATCH, progress=progress)
    if found.skipped:
        raise FoldcamError(f"{found.skipped[0].path}: {found.skipped[0].reason}")
    return _unit(found.embeddings)


def nearest_neighbors(queries: Floats, bank: Floats, values: Doubles, count: int) -> Doubles:
    """`float64 [Q]`: mean value of the `count` rows with the greatest cosines.

    Args:
        queries: `float32 [Q, D]` of norm 1.
        bank: `float32 [N, D]` of norm 1.
        values: `float64 [N]`.
        count: at most N are taken.
    """
    order = np.argsort(-(queries @ bank.T), axis=1, kind="stable")[:, :count]
    return np.asarray(values[order].mean(axis=1), np.float64)


def ridge(queries: Floats, bank: Floats, values: Doubles) -> Doubles:
    """`float64 [Q]`: ridge regression, its penalty chosen by leaving out one row of the bank.

    Args: as `nearest_neighbors`.
    """
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(alphas=_ALPHAS).fit(bank.astype(np.float64), values)
    return np.asarray(fitted.predict(queries.astype(np.float64)), np.float64)


def _unit(rows: Floats) -> Floats:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / norms, np.float32)


Metric = Callable[[Doubles, Doubles], float]


def median_absolute_percentage_error(estimates: Doubles, prices: Doubles) -> float:
    """Median of `|estimate - price| / price`, in the currency; low is good."""
    return float(np.median(np.abs(np.expm1(estimates - prices))))


def r2_log(estimates: Doubles, prices: Doubles) -> float:
    """Share of the log prices' variance that is explained; 0 for their own mean."""
    return _r2(estimates, prices)


def r2(estimates: Doubles, prices: Doubles) -> float:
    """Share of the prices' variance that is explained; the dearest houses rule it."""
    return _r2(np.exp(estimates), np.exp(prices))


METRICS: dict[str, Metric] = {
    "median_absolute_percentage_error": median_absolute_percentage_error,
    "r2_log": r2_log,
    "r2": r2,
    "rank_correlation": rank_correlation,
}
LOW_IS_GOOD = ("median_absolute_percentage_error",)


def intervals(estimates: Doubles, prices: Doubles, draws: int) -> dict[str, Interval]:
    """Every metric of one method's estimates, with its interval."""
    return {
        name: bootstrap_of(_on_drawn(metric, estimates, prices), len(prices), draws)
        for name, metric in METRICS.items()
    }


def differences(
    estimates: Doubles, others: Mapping[str, Doubles], prices: Doubles, draws: int
) -> dict[str, dict[str, Interval]]:
    """Every metric of `estimates` minus that of each other method, on the same draws."""
    return {
        other: {
            name: paired_bootstrap_of(
                _on_drawn(metric, estimates, prices),
                _on_drawn(metric, values, prices),
                len(prices),
                draws,
            )
            for name, metric in METRICS.items()
        }
        for other, values in others.items()
    }


def verdict(metric: str, difference: Interval) -> str:
    """`better`, `worse`, or `open` where the interval holds zero."""
    if difference.low <= 0 <= difference.high:
        return "open"
    return "better" if (difference.mean < 0) == (metric in LOW_IS_GOOD) else "worse"


def _on_drawn(metric: Metric, estimates: Doubles, prices: Doubles) -> Callable[[IndexArray], float]:
    return lambda drawn: metric(estimates[drawn], prices[drawn])


def _r2(estimates: Doubles, values: Doubles) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    left = float(((estimates - values) ** 2).sum())
    return 1.0 - left / spread if spread > 0 else 0.0


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
