"""Which rows are compared with each other."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.banks.objectives.blocks import directions_in_blocks, label_blocks, value_blocks
from foldcam.export.banks.objectives.directions import parse_objective


def _classes(*counts: int) -> np.ndarray:
    """Labels of so many rows each, in the bank's order."""
    return np.repeat(np.arange(len(counts)), counts)


def test_one_block_has_the_rows_in_the_banks_order():
    (block,) = label_blocks(_classes(3, 2, 1), 99, seed=3)
    assert block.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("counts", [[3] * 40, [100, 7], [100, 100], [1, 1], [1, 300, 1]])
def test_every_row_is_in_one_block_beside_another_label(counts, seed):
    classes = _classes(*counts)
    blocks = label_blocks(classes, 10, seed)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(classes)))
    for block in blocks:
        assert len(np.unique(classes[block])) >= 2
        assert (np.diff(block) > 0).all()


def test_a_label_that_fits_keeps_its_images_together():
    classes = _classes(*[4] * 20)
    blocks = label_blocks(classes, 20, seed=0)
    assert len(blocks) == 4
    for block in blocks:
        assert set(np.bincount(classes[block])) <= {0, 4}


def test_blocks_of_values_each_span_all_of_them():
    values = np.asarray([1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    first, second = value_blocks(6, 3)
    assert values[first].tolist() == [1, 5, 9]
    assert values[second].tolist() == [3, 7, 11]


def test_one_block_approximates_nothing_and_more_are_reported():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 3)).astype(np.float32)
    classes = _classes(*[5] * 10)
    for goal, size, said in [("sampled:2", 50, ""), ("sampled:2", 25, "2 blocks of about 25 rows"),
                             ("all-triplets", 5, "")]:  # fmt: skip
        directions, notes = directions_in_blocks(
            parse_objective(goal), rows, classes, None, size, 0
        )
        assert directions.values.shape == rows.shape
        assert bool(notes) == bool(said)
        assert said in " ".join(notes)
