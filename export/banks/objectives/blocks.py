"""Directions of more rows than can all be compared with each other.

An objective that compares every row with every other is N x N. Where there are more rows than a
block takes, they are dealt into blocks, and each is compared with the rows of its own block:
positives are all of a label's images where the label fits into half a block, negatives (and the
neighbours of a kernel) are a sample drawn by seed. One block is exact.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from foldcam.export.banks.objectives.directions import Directions, Floats, Integers, Objective
from foldcam.export.banks.objectives.kernel import KernelObjective

BLOCK_ROWS = 8192
"""Rows of a block: their similarities take 256 MiB in float32."""


def directions_in_blocks(
    objective: Objective | KernelObjective,
    embeddings: Floats,
    classes: Integers,
    values: Floats | None,
    size: int,
    seed: int,
) -> tuple[Directions, list[str]]:
    """The direction of every row, and a note for the user where it is not exact.

    Args:
        objective: which is exact for any number of rows if it needs only the sums of the labels.
        embeddings: `float32 [N, D]` of norm 1, sorted by label or by value.
        classes: `int64 [N]`, ascending label numbers 0..C-1; not read for values.
        values: `float32 [N]` of a continuous outcome, on the kernel's scale.
        size: rows per block, about.
        seed: the seed of the draw.
    """
    if values is not None:
        blocks = value_blocks(len(embeddings), size)
    elif isinstance(objective, Objective) and objective.of_sums is not None:
        blocks = [np.arange(len(embeddings))]
    else:
        blocks = label_blocks(classes, size, seed)
    if len(blocks) == 1:
        # Without a copy of all rows.
        if isinstance(objective, Objective):
            return objective.directions(embeddings, classes), []
        assert values is not None
        return objective.directions(embeddings, values), []
    found = []
    for rows in blocks:
        if isinstance(objective, Objective):
            numbers = np.unique(classes[rows], return_inverse=True)[1].astype(np.int64)
            found.append(objective.directions(embeddings[rows], numbers))
        elif values is not None and values[rows].min() < values[rows].max():
            found.append(objective.directions(embeddings[rows], values[rows]))
        else:
            # A block of one value says nothing of what raises it.
            found.append(Directions(np.zeros_like(embeddings[rows])))
    order = np.argsort(np.concatenate(blocks))
    everything = np.concatenate([each.values for each in found])[order]
    fallbacks = sum(each.fallback_rows for each in found)
    note = (
        f"Rows were compared within {len(blocks)} blocks of about "
        f"{ceil(len(embeddings) / len(blocks)):,} rows and not with every row: positives are those "
        "of the label, negatives and neighbours a sample."
    )
    return Directions(everything, fallback_rows=fallbacks), [note]


def label_blocks(classes: Integers, size: int, seed: int) -> list[Integers]:
    """Deal rows into blocks of two labels or more, in an order of the labels drawn by seed.

    Args:
        classes: `int64 [N]`, ascending label numbers.
    """
    rows, half = np.arange(len(classes)), max(1, size // 2)
    count = ceil(len(rows) / size)
    if count <= 1:
        return [rows]
    labels = np.split(rows, np.flatnonzero(np.diff(classes)) + 1)
    parts = [
        labels[label][at : at + half]
        for label in np.random.default_rng(seed).permutation(len(labels))
        for at in range(0, len(labels[label]), half)
    ]
    blocks: list[Integers] = []
    for number in range(min(count, len(parts))):
        block = np.sort(np.concatenate(parts[number::count]))
        # Rows of one label have nothing to be compared with: they join another block.
        if blocks and any(len(np.unique(classes[each])) < 2 for each in (block, blocks[-1])):
            blocks[-1] = np.sort(np.concatenate([blocks[-1], block]))
        else:
            blocks.append(block)
    return blocks


def value_blocks(rows: int, size: int) -> list[Integers]:
    """Deal rows that are sorted by value into blocks that each span all values."""
    count = max(1, ceil(rows / size))
    return [np.arange(number, rows, count) for number in range(count)]
