"""Near-duplicates across labels, labels that mix, and rows far from everything.

The limits were chosen on photographs of birds and faces: copies coded again, made smaller or
cropped by 3 % lie within 0.3 of the usual distance to the nearest row, and different photographs
of two labels at 0.7 or more of it; the two halves of one label mix at 0.9 of chance or more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from foldcam.export.banks.audit.neighbors import Integers, Neighbors
from foldcam.export.banks.bank import Hashes

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
