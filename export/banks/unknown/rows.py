"""A bank's rows as scores see them, and what they say of images that are left out of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.unknown.label_space import Doubles, Integers, label_space
from foldcam.runtime.contract.unknown import Score

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
