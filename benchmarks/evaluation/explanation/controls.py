"""Which cells a map hides, and which its two controls hide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.localization.geometry import resize_bilinear
from foldcam.benchmarks.evaluation.localization.perturbation import cell_ranks

Ranks = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float32]

CONTROLS = ("own", "other", "shifted")
"""The picture's own map, that of another picture, and its own map shifted."""


def blank_maps(maps: Floats, evidence: bool) -> npt.NDArray[np.bool_]:
    """`bool [N]`: maps `[N, h, w]` that name no cell.

    Args:
        maps: of one method.
        evidence: see `Method`.
    """
    flat = maps.reshape(len(maps), -1)
    return np.asarray(flat.max(axis=1) <= (0 if evidence else flat.min(axis=1)))


def ranks_of(
    maps: Floats, evidence: bool, seed: int, shape: tuple[int, int] | None = None
) -> Ranks:
    """Rank the cells of each map, 0 the hottest.

    Args:
        maps: `[N, h, w]` of one method.
        evidence: see `Method`.
        seed: of the order of equal cells.
        shape: the grid that is ranked, where it is another than the map's.

    Returns:
        `intp [N, *shape]`.
    """
    blank = blank_maps(maps, evidence)
    grid = shape or (maps.shape[1], maps.shape[2])
    ranks = np.empty((len(maps), *grid), np.intp)
    for number, heat in enumerate(maps):
        if blank[number]:
            # Beyond the seeds of other runs: this picture's own order.
            ranks[number] = cell_ranks(np.zeros(grid), seed * 1_000_003 + 1 + number)
        else:
            ranks[number] = cell_ranks(resize_bilinear(heat.astype(np.float64), grid), seed)
    return ranks


def controlled(ranks: Ranks, others: npt.NDArray[np.int64]) -> Ranks:
    """The rankings of `CONTROLS` for each picture.

    Args:
        ranks: `intp [N, h, w]`.
        others: `int64 [N]`, see `other_pictures`.

    Returns:
        `intp [N, 3, h, w]`.
    """
    half = (ranks.shape[1] // 2, ranks.shape[2] // 2)
    return np.stack([ranks, ranks[others], np.roll(ranks, half, axis=(1, 2))], axis=1)


def other_pictures(labels: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """For each picture another one of another label, each picture once where that can be.

    Sorted by label, with labels and pictures in a drawn order, all move on by at least the
    greatest number of pictures of one label. Where one label has more than half of them that
    cannot be, and each picture draws one.

    Args:
        labels: of N pictures, at least two of them different.
        seed: of the order.

    Returns:
        `int64 [N]`.
    """
    generator = np.random.default_rng([seed, 3])
    names, classes, counts = np.unique(
        np.asarray(labels, object).astype(str), return_inverse=True, return_counts=True
    )
    count, greatest = len(labels), int(counts.max())
    order = generator.permutation(count)
    order = order[np.argsort(generator.permutation(len(names))[classes[order]], kind="stable")]
    others = np.empty(count, np.int64)
    if 2 * greatest > count:
        for number in range(count):
            others[number] = generator.choice(np.flatnonzero(classes != classes[number]))
        return others
    step = int(generator.integers(greatest, count - greatest + 1))
    others[order] = np.roll(order, -step)
    return others
