"""Balanced lists: rows parted into groups of one size, each around a centroid.

The clustering of scikit-learn or faiss makes lists of any length, and a graph of fixed shapes
would have to pad all of them to the longest. So the rows are first halved again and again along
the direction between two means, which balances exactly, and then the lists are moved as in
k-means, with a price on each list that rises while more rows want it than it has room for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_SLACK = 1.06
_ROUNDS = 2
_PRICE_STEPS = 60
_PRICE_DECAY = 0.93
# Lists that a row may go to: its nearest.
_CANDIDATES = 48
_TWO_MEANS_STEPS = 6
_SAMPLE = 4096
_BLOCK = 4096


@dataclass(frozen=True)
class Lists:
    """Rows parted into lists.

    Attributes:
        centroids: `float32 [L, D]`, the mean direction of each list's rows, of norm 1.
        members: `int32 [L, C]`, rows in ascending order; -1 after the last one. Every list
            has at least one.
    """

    centroids: Floats
    members: npt.NDArray[np.int32]

    @property
    def sizes(self) -> Integers:
        """`int64 [L]`: rows in each list."""
        return np.asarray((self.members >= 0).sum(axis=1), np.int64)


def balanced_lists(rows: Floats, count: int, seed: int = 0) -> Lists:
    """Part rows of norm 1 into about equally long lists of similar rows.

    Args:
        rows: `float32 [N, D]`.
        count: lists wanted, at least 1 and at most N; a list that ends up empty is left out.
    """
    capacity = min(len(rows), int(np.ceil(_SLACK * len(rows) / count)))
    belongs = _halved(rows, count, np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        belongs = _reassigned(rows, _centroids(rows, belongs, count), capacity)
    _, belongs = np.unique(belongs, return_inverse=True)
    order = np.argsort(belongs, kind="stable")
    sizes = np.bincount(belongs)
    members = np.full((len(sizes), int(sizes.max())), -1, np.int32)
    members[np.arange(members.shape[1]) < sizes[:, None]] = order
    return Lists(_centroids(rows, belongs, len(sizes)), members)


def _halved(rows: Floats, count: int, generator: np.random.Generator) -> Integers:
    """The list of each row, by halving; sizes differ by rounding alone."""
    belongs = np.zeros(len(rows), np.int64)
    open_parts = [(np.arange(len(rows)), 0, count)]
    while open_parts:
        members, first, lists = open_parts.pop()
        if lists == 1 or len(members) < 2:
            belongs[members] = first
            continue
        left = lists // 2
        along = rows[members] @ _between_two_means(rows[members], generator)
        order = members[np.argsort(along, kind="stable")]
        cut = len(members) * left // lists
        # Ascending rows, so that the result does not depend on the order of the halving.
        open_parts.append((np.sort(order[:cut]), first, left))
        open_parts.append((np.sort(order[cut:]), first + left, lists - left))
    return belongs


def _between_two_means(rows: Floats, generator: np.random.Generator) -> Floats:
    """`float32 [D]`: from one half's mean to the other's, after a few steps of 2-means."""
    if len(rows) > _SAMPLE:
        rows = rows[np.sort(generator.choice(len(rows), _SAMPLE, replace=False))]
    centred = rows - rows.mean(axis=0)
    direction: Floats = np.linalg.eigh(centred.T @ centred)[1][:, -1].astype(np.float32)
    for _ in range(_TWO_MEANS_STEPS):
        along = centred @ direction
        upper = along > np.median(along)
        if upper.all() or not upper.any():
            break
        step = centred[upper].mean(axis=0) - centred[~upper].mean(axis=0)
        length = float(np.linalg.norm(step))
        if length < 1e-9:
            break
        direction = step / np.float32(length)
    return direction


def _centroids(rows: Floats, belongs: Integers, count: int) -> Floats:
    sums = np.zeros((count, rows.shape[1]), np.float64)
    np.add.at(sums, belongs, rows)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    unit: Floats = (sums / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _reassigned(rows: Floats, centroids: Floats, capacity: int) -> Integers:
    """The list of each row: its nearest, at prices at which no list has too many rows."""
    nearest, similarity = _candidates(rows, centroids)
    price = np.zeros(len(centroids), np.float32)
    step = np.float32(similarity.std() / 4)
    decay = np.float32(1)
    for _ in range(_PRICE_STEPS):
        worth = similarity - price[nearest]
        chosen = np.take_along_axis(nearest, worth.argmax(axis=1)[:, None], 1)[:, 0]
        excess = np.bincount(chosen, minlength=len(centroids)) / capacity - 1
        if excess.max() <= 0:
            break
        price += step * decay * np.clip(excess, -0.2, 1).astype(np.float32)
        price -= price.min()
        decay *= np.float32(_PRICE_DECAY)
    return _filled(nearest, similarity - price[nearest], len(centroids), capacity)


def _candidates(rows: Floats, centroids: Floats) -> tuple[Integers, Floats]:
    """For each row its nearest lists and the similarity to them, `[N, <= 48]`."""
    count = min(_CANDIDATES, len(centroids))
    nearest = np.empty((len(rows), count), np.int64)
    similarity = np.empty((len(rows), count), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        all_lists = rows[block] @ centroids.T
        nearest[block] = np.argpartition(-all_lists, count - 1, axis=1)[:, :count]
        similarity[block] = np.take_along_axis(all_lists, nearest[block], 1)
    return nearest, similarity


def _filled(nearest: Integers, worth: Floats, count: int, capacity: int) -> Integers:
    """Rows enter the list that is worth most to them as long as it has room."""
    order = np.argsort(-worth, axis=1, kind="stable")
    nearest = np.take_along_axis(nearest, order, 1)
    worth = np.take_along_axis(worth, order, 1)
    belongs = np.full(len(nearest), -1, np.int64)
    room = np.full(count, capacity, np.int64)
    waiting = np.arange(len(nearest))
    for choice in range(nearest.shape[1]):
        wanted = nearest[waiting, choice]
        queue = np.lexsort((-worth[waiting, choice], wanted))
        ordered = wanted[queue]
        place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        enters = place < room[ordered]
        belongs[waiting[queue[enters]]] = ordered[enters]
        room -= np.bincount(ordered[enters], minlength=count)
        waiting = np.sort(waiting[queue[~enters]])
        if not len(waiting):
            break
    # All of a row's nearest lists are full: any list with room.
    belongs[waiting] = np.repeat(np.arange(count), room)[: len(waiting)]
    return belongs
