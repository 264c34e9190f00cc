"""Which rows are compared with each other, where an objective compares single rows.

A comparison of every row with every other is N x N. Rows are dealt into blocks, and each is
compared with the rows of its own block: positives are all of a label's images where the label
fits into half a block, negatives (and the neighbours of a kernel) are a sample drawn by seed.
One block is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from export.scale_out.class_table import ClassTable
from export.scale_out.shard_files import Doubles, Integers, Rows

BLOCK_ROWS = 8192
"""Rows of a block: their similarities take 256 MiB in float32."""


@dataclass(frozen=True)
class Block:
    """Rows that are compared with each other.

    Attributes:
        shards: which shards they are in, and where, in the order in which they are compared.
        classes: `int64 [m]`, their labels as numbers 0..C-1; None for values.
    """

    shards: tuple[tuple[int, Integers], ...]
    classes: Integers | None

    def pieces(self, table: ClassTable) -> tuple[Rows, ...]:
        """Where their embeddings are."""
        return tuple(Rows(table.paths[shard], rows) for shard, rows in self.shards)


def label_blocks(table: ClassTable, size: int, seed: int) -> list[Block]:
    """Deal labels into blocks, in an order drawn by seed.

    Args:
        table: the rows of all labels.
        size: rows per block, about.
        seed: of the draw.

    Returns:
        Blocks of two labels or more. One block has the rows in the bank's order, as an
        objective of one machine sees them.
    """
    labels = table.labels
    count = max(1, ceil(int(table.counts().sum()) / size))
    if count == 1:
        order = list(range(len(labels)))
    else:
        order = [int(n) for n in np.random.default_rng(seed).permutation(len(labels))]
    dealt: list[dict[int, list[tuple[int, int, int]]]] = [{} for _ in range(count)]
    turn = 0
    for label in order:
        for part in _parts(table.runs[labels[label]], max(1, size // 2)):
            dealt[turn % count].setdefault(label, []).extend(part)
            turn += 1
    mixed: list[dict[int, list[tuple[int, int, int]]]] = []
    for block in filter(None, dealt):
        if mixed and (len(block) < 2 or len(mixed[-1]) < 2):
            for label, runs in block.items():
                mixed[-1].setdefault(label, []).extend(runs)
        else:
            mixed.append(block)
    if len(mixed) > 1 and len(mixed[-1]) < 2:
        for label, runs in mixed.pop().items():
            mixed[-1].setdefault(label, []).extend(runs)
    return [_block(block) for block in mixed]


def value_blocks(values: list[Doubles], size: int) -> list[Block]:
    """Deal rows into blocks by the rank of their value, so that each spans all values.

    Args:
        values: of each shard's rows.
        size: rows per block, about.
    """
    every = np.concatenate(values)
    count = max(1, ceil(len(every) / size))
    rank = np.empty(len(every), np.int64)
    rank[np.argsort(every, kind="stable")] = np.arange(len(every))
    shard_of = np.repeat(np.arange(len(values)), [len(each) for each in values])
    row_of = np.concatenate([np.arange(len(each)) for each in values])
    blocks = []
    for number in range(count):
        members = np.flatnonzero(rank % count == number)
        shards = tuple(
            (int(shard), row_of[members[shard_of[members] == shard]])
            for shard in np.unique(shard_of[members])
        )
        blocks.append(Block(shards, None))
    return blocks


def approximation(blocks: int, rows: int) -> str | None:
    """What comparing within blocks means, for the user; None where it is exact."""
    if blocks == 1:
        return None
    return (
        f"Rows were compared within {blocks} blocks of about {ceil(rows / blocks):,} rows and not "
        "with every row: positives are those of the label, negatives and neighbours a sample."
    )


def _parts(runs: list[tuple[int, int, int]], most: int) -> list[list[tuple[int, int, int]]]:
    """A label's runs in parts of at most `most` rows."""
    parts: list[list[tuple[int, int, int]]] = [[]]
    room = most
    for shard, start, stop in runs:
        while start < stop:
            if room == 0:
                parts.append([])
                room = most
            end = min(stop, start + room)
            parts[-1].append((shard, start, end))
            room -= end - start
            start = end
    return parts


def _block(dealt: dict[int, list[tuple[int, int, int]]]) -> Block:
    shards: list[tuple[int, Integers]] = []
    classes: list[Integers] = []
    for number, label in enumerate(sorted(dealt)):
        for shard, start, stop in dealt[label]:
            shards.append((shard, np.arange(start, stop)))
            classes.append(np.full(stop - start, number))
    return Block(tuple(shards), np.concatenate(classes))
