"""The nearest rows of every row of a bank: near-duplicates, labels that mix, lonely rows.

The limits were chosen on photographs of birds and faces: copies coded again, made smaller or
cropped by 3 % lie within 0.3 of the usual distance to the nearest row, and different photographs
of two labels at 0.7 or more of it; the two halves of one label mix at 0.9 of chance or more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Hashes

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


_NEAR = 0.3
"""Of the median distance to the nearest row: two rows nearer than that may be one picture."""
MIXED = 0.7
"""Of what chance would give: how often neighbors within two labels have the other one."""
_CANDIDATE = 0.2
_MOST_ROWS = 500
_NEIGHBORS = 5


class Pair(NamedTuple):
    """Two rows of different labels that may be one picture; `same` where their files are equal."""

    first: int
    second: int
    same: bool


class Mixed(NamedTuple):
    """Two labels whose rows mix; `ratio` is 1 where neighbors do not tell them apart at all."""

    first: int
    second: int
    ratio: float


def near_duplicates(
    neighbors: Neighbors, classes: Integers, hashes: Hashes | None, most: int = 1000
) -> list[Pair]:
    """Pairs of rows of different labels that may be one picture, the nearest first.

    Args:
        classes: `int64 [N]`.
        hashes: `uint8 [N, 32]` of the pictures, None where they are not known.
    """
    limit = _NEAR * float(np.median(neighbors.distances()))
    rows, places = np.nonzero(1 - neighbors.cosines <= limit)
    others = neighbors.rows[rows, places]
    apart = classes[rows] != classes[others]
    found = {
        (min(a, b), max(a, b)): float(cosine)
        for a, b, cosine in zip(
            rows[apart].tolist(),
            others[apart].tolist(),
            neighbors.cosines[rows, places][apart],
            strict=True,
        )
    }
    same = _same_pictures(hashes, classes)
    ordered = sorted(found.keys() - same, key=lambda pair: -found[pair])
    pairs = [*((pair, True) for pair in sorted(same)), *((pair, False) for pair in ordered)]
    return [Pair(*pair, equal) for pair, equal in pairs[:most]]


def mixed_labels(neighbors: Neighbors, classes: Integers) -> list[Mixed]:
    """Pairs of labels whose rows mix, the most mixed first.

    Args:
        classes: `int64 [N]`.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(classes.tolist()):
        members[label].append(row)
    theirs = classes[neighbors.rows]
    crossing = Counter(
        zip(np.repeat(classes, theirs.shape[1]).tolist(), theirs.ravel().tolist(), strict=True)
    )
    wanted = {
        (min(a, b), max(a, b))
        for (a, b), count in crossing.items()
        if a != b and count >= _CANDIDATE * theirs.shape[1] * len(members[a])
    }
    found = [Mixed(a, b, _mixing(neighbors, members[a], members[b])) for a, b in sorted(wanted)]
    return sorted((pair for pair in found if pair.ratio >= MIXED), key=lambda pair: -pair.ratio)


def lonely_rows(neighbors: Neighbors) -> list[int]:
    """Rows far from everything, the farthest first.

    They lie beyond Tukey's fence: the third quartile of the distances to the nearest row, and
    one and a half times the range between the quartiles.
    """
    away = neighbors.distances()
    first, third = np.quantile(away, [0.25, 0.75])
    far = np.flatnonzero(away > third + 1.5 * (third - first))
    return [int(row) for row in far[np.argsort(-away[far], kind="stable")]]


def _same_pictures(hashes: Hashes | None, classes: Integers) -> set[tuple[int, int]]:
    """Pairs of rows of different labels with one picture: the first row of it, and another."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, picture in enumerate(() if hashes is None else hashes):
        groups[picture.tobytes()].append(row)
    return {
        (group[0], row)
        for group in groups.values()
        for row in group[1:]
        if classes[row] != classes[group[0]]
    }


def _mixing(neighbors: Neighbors, first: list[int], second: list[int]) -> float:
    """How often a row's nearest rows in both labels have the other label, by chance."""
    parts = [part[:: max(1, len(part) // _MOST_ROWS)][:_MOST_ROWS] for part in (first, second)]
    a, b = map(len, parts)
    rows = np.concatenate(parts)
    of_second = np.arange(a + b) >= a
    cosines = neighbors.centred[rows] @ neighbors.centred[rows].T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(_NEIGHBORS, a, b)]
    crossing = float((of_second[nearest] != of_second[:, None]).mean())
    return crossing * (a + b) * (a + b - 1) / (2 * a * b)
