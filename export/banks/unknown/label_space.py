"""The space in which rows spread alike around their label's mean, whichever the direction.

A similarity counts every direction of the embedding alike, also those in which the pictures of
one label differ. Whitened by the covariance within labels (linear discriminant analysis; Fisher
1936), with the shrinkage of Ledoit and Wolf (2004), what tells labels apart counts more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_DIMENSIONS = 256
"""Principal components that are kept: on banks of few labels more measured no better, and the
constants of the graph stay below 1.4 MB for an embedding of 1,280 numbers."""
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """Where the cosine to a label's mean is the score `whitened`.

    Attributes:
        centre: `float64 [D]`, the mean of the rows.
        transform: `float64 [D, r]`, which rows go through after the centre is taken off. Its
            scale makes the mean norm of the rows 1.
        means: `float64 [L, r]`, of each label, of norm 1.
    """

    centre: Doubles
    transform: Doubles
    means: Doubles

    def scores(self, units: npt.NDArray[np.floating]) -> Doubles:
        """The cosine to the nearest label's mean, `float64 [N]` in [-1, 1].

        Args:
            units: `[N, D]`, embeddings of norm 1.
        """
        placed = (units - self.centre) @ self.transform
        norms = np.linalg.norm(placed, axis=1)
        nearest: Doubles = (placed @ self.means.T).max(axis=1) / np.maximum(norms, _TINY)
        return nearest


def label_space(units: npt.NDArray[np.floating], labels: Integers) -> LabelSpace | None:
    """The space of a bank's rows.

    Args:
        units: `[N, D]`, the rows, of norm 1.
        labels: `int64 [N]`, the number of each row's label, 0 .. L - 1, each at least once.

    Returns:
        None where the rows do not say how labels spread: one label alone, or no label with two
        rows that differ.
    """
    from sklearn.covariance import LedoitWolf

    rows = np.asarray(units, np.float64)
    counts = np.bincount(labels)
    if len(counts) < 2:
        return None
    centre = rows.mean(axis=0)
    centred = rows - centre
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    kept = np.flatnonzero(values > _TINY * values[-1])[::-1][:MOST_DIMENSIONS]
    axes = vectors[:, kept]
    placed = centred @ axes
    sums = np.zeros((len(counts), placed.shape[1]))
    np.add.at(sums, labels, placed)
    means = sums / counts[:, None]
    within = placed - means[labels]
    if not (within**2).sum() > _TINY * (placed**2).sum():
        return None
    covariance = LedoitWolf(assume_centered=True).fit(within).covariance_
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    whitening /= np.linalg.norm(placed @ whitening, axis=1).mean()
    whitened = means @ whitening
    norms = np.linalg.norm(whitened, axis=1, keepdims=True)
    return LabelSpace(centre, axes @ whitening, whitened / np.maximum(norms, _TINY))
