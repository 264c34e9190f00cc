"""The scores that are compared: each says how likely an image shows a label of the bank.

The higher, the more likely. Each takes the bank's rows and `[Q, D]` embeddings of norm 1, and
gives `float64 [Q]`, or None where the rows cannot say (one label alone, no two rows of a label).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from foldcam.export.banks.unknown.rows import (
    DEVICE_SCORES,
    Doubles,
    Rows,
    RowScore,
    first_and_second,
)

Units = npt.NDArray[np.floating]

_KTH = 3
_TEMPERATURE = 0.05
_TINY = 1e-9


def margin(rows: Rows, units: Units) -> Doubles | None:
    """How much nearer the nearest row is than the nearest of another label, in cosine."""
    two = first_and_second(rows.nearest(units))
    return None if two is None else two[0] - two[1]


def neighbor_ratio(rows: Rows, units: Units) -> Doubles | None:
    """Minus the ratio of the distances to the nearest row and to another label's (Lowe 2004)."""
    two = first_and_second(rows.nearest(units))
    if two is None:
        return None
    near, far = (np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0)) for cosines in two)
    ratio: Doubles = -near / np.maximum(far, _TINY)
    return ratio


def kth_neighbor(rows: Rows, units: Units) -> Doubles | None:
    """The cosine to the third nearest row, whatever its label (Sun et al. 2022)."""
    if len(rows.units) < _KTH:
        return None
    cosines = np.asarray(units, np.float64) @ rows.units.T.astype(np.float64)
    kth: Doubles = np.partition(cosines, -_KTH, axis=1)[:, -_KTH]
    return kth


def class_mean(rows: Rows, units: Units) -> Doubles:
    """The cosine to the nearest label's mean."""
    best: Doubles = _to_means(rows, units).max(axis=1)
    return best


def class_mean_and_margin(rows: Rows, units: Units) -> Doubles | None:
    """As `similarity_and_margin`, of the labels' means."""
    two = first_and_second(_to_means(rows, units))
    return None if two is None else 2.0 * two[0] - two[1]


def energy(rows: Rows, units: Units) -> Doubles:
    """The logarithm of the sum of exponentials of the cosines to the means (Liu et al. 2020)."""
    summed: Doubles = _TEMPERATURE * logsumexp(_to_means(rows, units) / _TEMPERATURE, axis=1)
    return summed


def mahalanobis(rows: Rows, units: Units) -> Doubles | None:
    """Minus the squared distance to the nearest mean, covariance shared (Lee et al. 2018)."""
    distances = _mahalanobis(rows, units)
    return None if distances is None else -distances[0]


def relative_mahalanobis(rows: Rows, units: Units) -> Doubles | None:
    """The same, less the distance to the mean of all rows by their own covariance (Ren 2021).

    None of fewer rows than an embedding has numbers: the two covariances are then shrunk by
    different amounts, which their difference would measure.
    """
    if len(rows.units) <= rows.units.shape[1]:
        return None
    distances = _mahalanobis(rows, units)
    return None if distances is None else distances[1] - distances[0]


SCORES: dict[str, RowScore] = {
    **{str(name): score for name, score in DEVICE_SCORES.items()},
    "margin": margin,
    "neighbor_ratio": neighbor_ratio,
    "kth_neighbor": kth_neighbor,
    "class_mean": class_mean,
    "class_mean_and_margin": class_mean_and_margin,
    "energy": energy,
    "mahalanobis": mahalanobis,
    "relative_mahalanobis": relative_mahalanobis,
}
"""By name; those of a folded model's rule first."""


def _means(rows: Rows) -> tuple[Doubles, npt.NDArray[np.intp]]:
    """`float64 [L, D]`, the mean of each label that has rows, and each row's place in it."""
    present, places = np.unique(rows.labels, return_inverse=True)
    means = np.zeros((len(present), rows.units.shape[1]))
    np.add.at(means, places, rows.units.astype(np.float64))
    return means / np.bincount(places)[:, None], places


def _to_means(rows: Rows, units: Units) -> Doubles:
    means, _ = _means(rows)
    norms = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _TINY)
    cosines: Doubles = np.asarray(units, np.float64) @ (means / norms).T
    return cosines


def _mahalanobis(rows: Rows, units: Units) -> tuple[Doubles, Doubles] | None:
    """To the nearest label's mean, and to the mean of all rows, both shrunk (Ledoit, Wolf)."""
    from sklearn.covariance import LedoitWolf

    means, places = _means(rows)
    exact = rows.units.astype(np.float64)
    within, centred = exact - means[places], exact - exact.mean(axis=0)
    if len(means) < 2 or not (within**2).sum() > _TINY * (centred**2).sum():
        return None
    queries = np.asarray(units, np.float64)
    nearest = np.full(len(queries), np.inf)
    shared = LedoitWolf(assume_centered=True).fit(within).precision_
    for mean in means:
        nearest = np.minimum(nearest, _squared(queries - mean, shared))
    whole = LedoitWolf(assume_centered=True).fit(centred).precision_
    return nearest, _squared(queries - exact.mean(axis=0), whole)


def _squared(differences: Doubles, precision: Doubles) -> Doubles:
    squared: Doubles = np.einsum("qd,qd->q", differences @ precision, differences)
    return squared
