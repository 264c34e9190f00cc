"""How good price estimates are: four metrics, their intervals, and paired differences.

Estimates and prices are natural logarithms, `float64 [houses]`. Intervals resample houses: the
four photographs of a house are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import (
    IndexArray,
    Interval,
    bootstrap_of,
    paired_bootstrap_of,
)

Doubles = npt.NDArray[np.float64]
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


def rank_correlation(estimates: Doubles, prices: Doubles) -> float:
    """Spearman's; 0 where one side is constant, which orders nothing."""
    from scipy.stats import rankdata

    ours, theirs = rankdata(estimates), rankdata(prices)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    norm = np.sqrt((ours @ ours) * (theirs @ theirs))
    return float(ours @ theirs / norm) if norm > 0 else 0.0


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
