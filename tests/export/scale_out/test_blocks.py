"""Which rows are compared with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.scale_out.blocks import approximation, label_blocks, value_blocks
from export.scale_out.class_table import ClassTable


def _table(*shards: list[tuple[str, int]]) -> ClassTable:
    """Shards that hold runs of labels."""
    table = ClassTable()
    for number, runs in enumerate(shards):
        table.paths.append(Path(f"{number}"))
        table.rows.append(sum(count for _, count in runs))
        start = 0
        for label, count in runs:
            table.runs.setdefault(label, []).append((number, start, start + count))
            start += count
    return table


def _rows(block):
    return [(shard, int(row)) for shard, rows in block.shards for row in rows]


def test_one_block_has_the_rows_in_the_banks_order():
    table = _table([("a", 2), ("c", 1)], [("a", 1), ("b", 2)])
    (block,) = label_blocks(table, 99, seed=3)
    assert _rows(block) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (0, 2)]
    assert block.classes.tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "shards",
    [
        [[(f"l{n:02d}", 3) for n in range(40)]],
        [[("a", 100)], [("b", 7)]],
        [[("a", 50)], [("a", 50)], [("b", 100)]],
        [[("a", 1), ("b", 1)]],
    ],
)
def test_every_row_is_in_one_block_beside_another_label(shards, seed):
    table = _table(*shards)
    blocks = label_blocks(table, 10, seed)
    rows = [row for block in blocks for row in _rows(block)]
    assert len(rows) == len(set(rows)) == sum(table.rows)
    for block in blocks:
        counts = np.bincount(block.classes)
        assert len(counts) >= 2
        assert counts.min() >= 1
        assert len(block.classes) == len(_rows(block))


def test_a_label_that_fits_keeps_its_images_together():
    table = _table([(f"l{n:02d}", 4) for n in range(20)])
    blocks = label_blocks(table, 20, seed=0)
    assert len(blocks) == 4
    for block in blocks:
        assert set(np.bincount(block.classes)) == {4}


def test_blocks_of_values_each_span_all_of_them():
    values = [np.asarray([9.0, 1.0, 5.0]), np.asarray([3.0, 7.0, 11.0])]
    first, second = value_blocks(values, 3)
    assert sorted(values[s][r] for s, r in _rows(first)) == [1, 5, 9]
    assert sorted(values[s][r] for s, r in _rows(second)) == [3, 7, 11]


def test_one_block_approximates_nothing():
    assert approximation(1, 50) is None
    assert "2 blocks of about 25 rows" in approximation(2, 50)
