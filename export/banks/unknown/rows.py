"""A bank's rows as scores see them, and what they say of images that are left out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.runtime.contract.unknown import Score

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MOST_DIMENSIONS = 256
"""Principal components that are kept: on banks of few labels more measured no better, and the
constants of the graph stay below 1.4 MB for an embedding of 1,280 numbers."""
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """Where rows spread alike around their label's mean, whichever the direction.

    The cosine to a label's mean is the score `whitened` here. A similarity counts every direction
    of the embedding alike, also those in which the pictures of one label differ. Whitened by the
    covariance within labels (linear discriminant analysis; Fisher 1936), with the shrinkage of
    Ledoit and Wolf (2004), what tells labels apart counts more.

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


Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a bank.

    Attributes:
        units: `[N, D]`, of norm 1.
        labels: `int64 [N]`, the number of each row's label among `names`.
        names: of all labels, also of those that have no row here.
    """

    units: npt.NDArray[np.floating]
    labels: Integers
    names: tuple[str, ...]

    @classmethod
    def of(cls, bank: Bank) -> Rows:
        """Those of a bank of labels; two runs of one label are one label."""
        names = tuple(dict.fromkeys(run.name for run in bank.labels))
        return cls(bank.embeddings, numbered(bank.row_labels(), names), names)

    def kept(self, mask: Mask) -> Rows:
        """The rows of a mask `[N]`."""
        return Rows(self.units[mask], self.labels[mask], self.names)

    def nearest(self, units: npt.NDArray[np.floating]) -> Doubles:
        """The cosine to the nearest row of each label that has rows: `float64 [Q, L']`.

        Args:
            units: `[Q, D]`, of norm 1.
        """
        order = np.argsort(self.labels, kind="stable")
        starts = np.flatnonzero(np.diff(self.labels[order], prepend=-1))
        cosines = np.asarray(units, np.float64) @ self.units[order].T.astype(np.float64)
        found: Doubles = np.maximum.reduceat(cosines, starts, axis=1)
        return found


def numbered(labels: Sequence[str], names: Sequence[str]) -> Integers:
    """Each label's place among the names, which have all of them: `int64 [N]`."""
    places = {name: place for place, name in enumerate(names)}
    return np.asarray([places[label] for label in labels], np.int64)


RowScore = Callable[[Rows, npt.NDArray[np.floating]], "Doubles | None"]
"""Of rows and `[Q, D]` images: `float64 [Q]`, the higher the more likely known; None where the
rows cannot say."""


def first_and_second(values: Doubles) -> tuple[Doubles, Doubles] | None:
    """The largest and the second largest of each row `[Q, L]`; None where L is 1."""
    if values.shape[1] < 2:
        return None
    two = np.partition(values, -2, axis=1)[:, -2:]
    return two[:, 1], two[:, 0]


def similarity(rows: Rows, units: npt.NDArray[np.floating]) -> Doubles:
    """The cosine to the nearest row."""
    best: Doubles = rows.nearest(units).max(axis=1)
    return best


def similarity_and_margin(rows: Rows, units: npt.NDArray[np.floating]) -> Doubles | None:
    """The cosine to the nearest row, and what it is above that to another label's nearest."""
    two = first_and_second(rows.nearest(units))
    return None if two is None else 2.0 * two[0] - two[1]


def whitened(rows: Rows, units: npt.NDArray[np.floating]) -> Doubles | None:
    """The cosine to the nearest label's mean in `label_space`."""
    _, labels = np.unique(rows.labels, return_inverse=True)
    space = label_space(rows.units, labels.astype(np.int64))
    return None if space is None else space.scores(np.asarray(units, np.float64))


DEVICE_SCORES: dict[Score, RowScore] = {
    "similarity": similarity,
    "similarity_and_margin": similarity_and_margin,
    "whitened": whitened,
}
"""The scores that a folded model's rule can have."""
