"""The nearest rows of every row of a bank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

NEAREST = 10
"""Neighbors of a row."""
_BLOCK = 1024
_SAME = 1e-5


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest other rows, nearest first, by the cosine of embeddings less their mean.

    All embeddings of a network may lie in a narrow cone: less their mean they differ by what
    tells them apart.

    Attributes:
        centred: `float32 [N, D]` of norm 1.
        rows: `int64 [N, k]`.
        cosines: `float32 [N, k]`.
    """

    centred: Floats
    rows: Integers
    cosines: Floats

    def distances(self) -> Floats:
        """`float32 [N]`: one minus the cosine to the nearest row that is not the same picture."""
        away = 1 - self.cosines
        away = np.where(away > _SAME, away, np.inf).min(axis=1)
        known = away[np.isfinite(away)]
        return np.where(np.isfinite(away), away, known.max() if len(known) else 0).astype("f4")


def find_neighbors(
    embeddings: Floats, progress: Callable[[int, int], None] | None = None
) -> Neighbors:
    """Search every row among all others.

    Args:
        embeddings: `float32 [N, D]` of norm 1, N >= 2.
        progress: called with the rows done and all.
    """
    centred = embeddings - embeddings.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    count = min(NEAREST, len(centred) - 1)
    rows = np.empty((len(centred), count), np.int64)
    cosines = np.empty((len(centred), count), np.float32)
    for start in range(0, len(centred), _BLOCK):
        found = centred[start : start + _BLOCK] @ centred.T
        own = np.arange(len(found))
        found[own, start + own] = -np.inf
        nearest = np.argpartition(-found, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(found, nearest, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[start : start + _BLOCK] = np.take_along_axis(nearest, order, 1)
        cosines[start : start + _BLOCK] = np.take_along_axis(values, order, 1)
        if progress is not None:
            progress(start + len(found), len(rows))
    return Neighbors(centred, rows, cosines)
