"""Bootstrap intervals: how far a measured number would move with other images.

The percentile bootstrap of Efron (1979): images are drawn with repetition, the statistic is
taken again for each draw, and the interval spans the middle ``level`` of the results. Two
methods measured on the same images are compared by their *difference* on the same draws, which
takes away what makes an image hard for both.

A statistic is either a function of the resampled values (:func:`bootstrap`,
:func:`paired_bootstrap`) or, where it belongs to the whole set and not to an image (a maximum
over thresholds, a pooled precision), a function of the drawn indices (:func:`bootstrap_of`,
:func:`paired_bootstrap_of`). One seed gives the same draws to all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

IndexArray = NDArray[np.intp]
Statistic = Callable[[NDArray[np.float64]], float]
IndexStatistic = Callable[[IndexArray], float]


@dataclass(frozen=True)
class Interval:
    """A measured value with its bootstrap interval."""

    mean: float  # the statistic of the data themselves, not of the draws
    low: float  # lower end of the interval
    high: float  # upper end of the interval


def mean(values: NDArray[np.float64]) -> float:
    """The mean of an array, the default statistic."""
    return float(values.mean())


def bootstrap(
    values: ArrayLike,
    statistic: Statistic = mean,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of one sample.

    Args:
        values: ``[N]`` (or ``[N, ...]``, drawn along the first axis), finite.
        statistic: of ``float64 [N, ...]``; the mean by default.
        seed: of the draws; the same seed and N give the same draws.
        level: share of the resamples the interval spans, between 0 and 1.

    Example:
        >>> bootstrap([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    sample = _sample(values, "values")
    return bootstrap_of(lambda indices: statistic(sample[indices]), len(sample), draws, seed, level)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Statistic = mean,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of ``statistic(a) - statistic(b)``; row i of both is of image i."""
    first, second = _sample(a, "a"), _sample(b, "b")
    if len(first) != len(second):
        raise ValueError(
            f"a paired bootstrap needs both measured on the same images, got {len(first)} and "
            f"{len(second)} values"
        )
    return bootstrap_of(
        lambda indices: statistic(first[indices]) - statistic(second[indices]),
        len(first),
        draws,
        seed,
        level,
    )


def bootstrap_of(
    statistic: IndexStatistic,
    count: int,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of the whole set, given the images drawn.

    Args:
        statistic: takes ``intp [count]`` images with repetition, each in 0 .. count - 1.
        level: share of the resamples the interval spans.

    Example:
        ``bootstrap_of(accuracy.max_box_acc_v2, accuracy.count)``
    """
    if count < 1 or draws < 1:
        raise ValueError(f"count and draws must be at least 1, got {count} and {draws}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    generator = np.random.default_rng(seed)
    measured = float(statistic(np.arange(count, dtype=np.intp)))
    results = np.array(
        [float(statistic(generator.integers(0, count, count))) for _ in range(draws)]
    )
    bad = int((~np.isfinite(np.append(results, measured))).sum())
    if bad:
        raise ValueError(
            f"the statistic is NaN or infinite on {bad} of {draws + 1} samples; leave out the "
            "images on which it is undefined"
        )
    low, high = np.quantile(results, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(mean=measured, low=float(low), high=float(high))


def paired_bootstrap_of(
    statistic_a: IndexStatistic,
    statistic_b: IndexStatistic,
    count: int,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of ``statistic_a - statistic_b``, both on the same drawn images."""
    return bootstrap_of(
        lambda indices: statistic_a(indices) - statistic_b(indices), count, draws, seed, level
    )


def _sample(values: ArrayLike, name: str) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim < 1 or len(sample) == 0:
        raise ValueError(f"{name} must hold at least one value, got the shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(f"{name} holds NaN or infinity; leave those images out of both methods")
    return sample
