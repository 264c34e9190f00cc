"""Which cells are hidden: of a map, of a map of another picture, of a map shifted."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.explanation.damage import (
    SHARES,
    blank_maps,
    controlled,
    hidden_cells,
    other_pictures,
    ranks_of,
)
from foldcam.benchmarks.evaluation.localization.perturbation import first_cells


@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 2, 3), (6, 1, 5), (2, 2)])
def test_every_picture_gets_another_of_another_label_and_each_is_taken_once(
    counts: tuple[int, ...],
) -> None:
    labels = [f"label {n}" for n, count in enumerate(counts) for _ in range(count)]
    for seed in range(20):
        others = other_pictures(labels, seed)
        assert sorted(others) == list(range(len(labels)))
        assert all(labels[n] != labels[other] for n, other in enumerate(others))
    assert np.array_equal(other_pictures(labels, 3), other_pictures(labels, 3))


def test_where_one_label_has_most_pictures_the_others_are_drawn_again() -> None:
    labels = ["many"] * 6 + ["few"] * 2
    others = other_pictures(labels, 0)
    assert all(labels[n] != labels[other] for n, other in enumerate(others))


def test_the_order_of_labels_and_of_the_pictures_in_them_is_drawn() -> None:
    labels = ["a", "b", "c"] * 4
    assert len({tuple(other_pictures(labels, seed)) for seed in range(10)}) > 5


def test_equal_maps_are_ranked_equally_whatever_their_ties() -> None:
    maps = np.zeros((3, 4, 4), np.float32)
    maps[:, 1, 2] = 1
    ranks = ranks_of(maps, True, 0)
    assert (ranks == ranks[0]).all()
    assert (ranks[:, 1, 2] == 0).all()
    assert not np.array_equal(ranks[0], ranks_of(maps, True, 1)[0])


def test_blank_maps_are_counted_and_ranked_at_random_for_each_picture() -> None:
    maps = np.zeros((4, 4, 4), np.float32)
    maps[1] = -1.0
    maps[2, 0, 0] = 1.0
    maps[3] = 0.5
    assert blank_maps(maps, True).tolist() == [True, True, False, False]
    assert blank_maps(maps, False).tolist() == [True, True, False, True]
    ranks = ranks_of(maps, True, 0)
    assert not np.array_equal(ranks[0], ranks[1])
    assert np.array_equal(ranks, ranks_of(maps, True, 0))


def test_a_map_that_is_negative_everywhere_is_ranked_where_it_is_no_evidence() -> None:
    maps = -np.arange(1.0, 10.0, dtype=np.float32).reshape(1, 3, 3)
    assert not blank_maps(maps, False)[0]
    assert ranks_of(maps, False, 0)[0].ravel().tolist() == list(range(9))


def test_a_map_of_another_size_is_ranked_on_the_feature_maps_grid() -> None:
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 1, 1] = 1
    ranks = ranks_of(maps, True, 0, (4, 4))
    assert ranks.shape == (1, 4, 4)
    assert ranks[0, 3, 3] < 4


def test_the_controls_are_another_map_and_the_own_map_moved_by_half() -> None:
    maps = np.random.default_rng(0).random((2, 4, 6)).astype(np.float32)
    ranks = ranks_of(maps, True, 0)
    own, other, shifted = controlled(ranks, np.array([1, 0]))[0]
    assert np.array_equal(own, ranks[0])
    assert np.array_equal(other, ranks[1])
    assert shifted[2, 3] == own[0, 0]
    assert shifted[0, 0] == own[2, 3]


def test_equal_sets_of_cells_are_tried_once() -> None:
    order = np.arange(16).reshape(4, 4)
    hidden = hidden_cells({"one": np.stack([order] * 3), "same": np.stack([order, order, order.T])})
    assert len(hidden.masks) == 2 * len(SHARES)
    assert np.array_equal(hidden.places["one"][:, 0], hidden.places["same"][:, 1])
    for step, share in enumerate(SHARES):
        mask = hidden.masks[hidden.places["same"][step, 2]]
        assert np.array_equal(mask, first_cells(order.T, share))
