"""Grids ask for every subject, among subjects of other labels."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.localization.subjects import Grid, draw_grids, grid_image
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

LABELS = ["a"] * 3 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2


@pytest.mark.parametrize("side", [2, 3])
def test_each_subject_is_asked_as_often_as_wanted_and_stands_where_it_is_said_to(side: int) -> None:
    grids = draw_grids(LABELS, side, 4, seed=0)
    asked = [grid.asked for grid in grids]
    assert sorted(asked) == sorted(list(range(len(LABELS))) * 4)
    for grid in grids:
        assert len(grid.subjects) == side * side
        assert grid.subjects[grid.cell] == grid.asked
        others = [n for cell, n in enumerate(grid.subjects) if cell != grid.cell]
        assert all(LABELS[n] != LABELS[grid.asked] for n in others)
    assert {grid.cell for grid in grids} == set(range(side * side))


def test_the_other_cells_take_different_labels_while_there_are_enough() -> None:
    for grid in draw_grids(LABELS, 2, 3, seed=1):
        others = [LABELS[n] for cell, n in enumerate(grid.subjects) if cell != grid.cell]
        assert len(set(others)) == 3


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(FoldcamError, match="two labels"):
        draw_grids(["a", "a"], 2, 1, 0)


def test_each_cell_of_the_picture_shows_its_subject() -> None:
    images = [np.full((10, 20, 3), 50 * n, np.uint8) for n in range(4)]
    picture = grid_image(Grid(2, (3, 1, 0, 2), 1, 1), images, Preprocessing(width=9, height=8))
    assert picture.shape == (8, 9, 3)
    # 9 / 2 rounds to 4: the first column is 4 pixels wide.
    assert (picture[:4, :4] == 150).all()
    assert (picture[:4, 4:] == 50).all()
    assert (picture[4:, :4] == 0).all()
    assert (picture[4:, 4:] == 100).all()
