"""Where an activation's magnitudes are cut before rounding: four methods on one histogram."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from foldcam.calibrate.statistics import BINS, Activation

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

PERCENTILE = 99.99
_CANDIDATES = 128
_ENTROPY_LEVELS = 128


def threshold_of(activation: Activation, method: Method, levels: int = 127) -> float:
    """The greatest magnitude that is kept.

    Args:
        method: `minmax` cuts nothing; `percentile` the 0.01 % greatest; `entropy` where the
            Kullback-Leibler divergence between the values and their levels is least (S.
            Migacz, "8-bit Inference with TensorRT", 2017); `mse` where their mean squared
            error is least.
    """
    if method == "minmax":
        return activation.greatest
    if method == "percentile":
        return _percentile(activation)
    return _entropy(activation) if method == "entropy" else _least_squares(activation, levels)


def thresholds_of(activation: Activation, levels: int = 127) -> dict[Method, float]:
    """All four; an activation that is always zero has one of 1."""
    if activation.greatest == 0:
        return dict.fromkeys(METHODS, 1.0)
    return {method: threshold_of(activation, method, levels) for method in METHODS}


def clipped_share(activation: Activation, threshold: float) -> float:
    """The share of values beyond a threshold, in [0, 1]."""
    first = int(np.ceil(threshold / activation.width)) if activation.width else BINS
    counts = activation.histogram
    return float(counts[first:].sum() / max(1, counts.sum()))


def _percentile(activation: Activation) -> float:
    share = np.cumsum(activation.histogram) / activation.histogram.sum()
    bin_ = int(np.searchsorted(share, PERCENTILE / 100))
    return float(min(activation.greatest, (bin_ + 1) * activation.width))


def _least_squares(activation: Activation, levels: int) -> float:
    counts = activation.histogram
    values = (np.arange(BINS) + 0.5) * activation.width
    candidates = activation.greatest * np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    errors = []
    for threshold in candidates:
        scale = threshold / levels
        rounded = np.minimum(np.rint(values / scale), levels) * scale
        errors.append(float((counts * (values - rounded) ** 2).sum()))
    # Of equal errors the widest range.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    return float(candidates[best])


def _entropy(activation: Activation) -> float:
    counts = activation.histogram.astype(np.float64)
    # Zeros, of which a ReLU makes many, are exact at every scale.
    counts[0] = 0
    used = max(_ENTROPY_LEVELS, int(np.ceil(activation.greatest / activation.width)))
    used = min(used, BINS)
    edges = np.unique(np.linspace(_ENTROPY_LEVELS, used, _CANDIDATES).astype(np.int64))
    divergences = [_divergence(counts[:used], int(edge)) for edge in edges]
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float(min(activation.greatest, edges[best] * activation.width))


def _divergence(counts: npt.NDArray[np.float64], edge: int) -> float:
    inside = counts[:edge]
    reference = inside.copy()
    reference[-1] += counts[edge:].sum()
    if reference.sum() == 0 or inside.sum() == 0:
        return np.inf
    group = np.arange(edge) * _ENTROPY_LEVELS // edge
    filled = inside > 0
    totals = np.bincount(group, inside, _ENTROPY_LEVELS)
    places = np.bincount(group, filled, _ENTROPY_LEVELS)
    spread = np.where(filled, totals[group] / np.maximum(places[group], 1), 0.0)
    p = reference / reference.sum()
    # A level that the values lack is not impossible, only unlikely.
    q = np.maximum(spread / spread.sum(), 1e-9)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
