"""Rows parted into lists of one size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldcam.export.grafting.lists import balanced_lists


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_two_clusters_become_two_lists_around_their_means():
    angles = np.deg2rad([0, 10, 20, 30, 150, 160, 170, 180])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    lists = balanced_lists(rows, 2)
    found = sorted(map(tuple, lists.members.tolist()))
    assert found == [(0, 1, 2, 3), (4, 5, 6, 7)]
    for members, centroid in zip(lists.members, lists.centroids, strict=True):
        middle = np.deg2rad(15 if members[0] == 0 else 165)
        np.testing.assert_allclose(centroid, [np.cos(middle), np.sin(middle)], atol=1e-6)


def test_a_crowd_and_a_few_are_balanced_all_the_same():
    generator = np.random.default_rng(0)
    rows = np.concatenate(
        [np.array([[1, 0, 0]]) + 0.05 * generator.normal(size=(380, 3)), np.eye(3)[[1, 2]] * 1.0]
    )
    lists = balanced_lists(_unit(rows), 4)
    assert lists.sizes.max() <= np.ceil(1.06 * 382 / 4)
    assert lists.sizes.sum() == 382


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(2, 9),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_row_stands_in_one_list_and_no_list_is_empty(count, lists, size, equal, seed):
    lists = min(lists, count)
    rows = np.random.default_rng(seed).normal(size=(1 if equal else count, size))
    rows = np.repeat(_unit(rows), count if equal else 1, axis=0)
    found = balanced_lists(rows, lists)
    held = found.members[found.members >= 0]
    assert sorted(held.tolist()) == list(range(count))
    assert found.sizes.min() >= 1
    assert found.members.shape[1] <= max(1, np.ceil(1.06 * count / lists))
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-5)
    for members in found.members:
        kept = members[members >= 0]
        assert (np.diff(kept) > 0).all()
        assert (members[len(kept) :] == -1).all()


def test_the_same_rows_make_the_same_lists():
    rows = _unit(np.random.default_rng(0).normal(size=(500, 8)))
    first, again = balanced_lists(rows, 20, seed=3), balanced_lists(rows, 20, seed=3)
    assert np.array_equal(first.members, again.members)
    assert np.array_equal(first.centroids, again.centroids)


@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_nearly_always_in_one_of_the_lists_nearest_to_it(seed):
    generator = np.random.default_rng(seed)
    centres = _unit(generator.normal(size=(30, 16)))
    rows = _unit(np.repeat(centres, 40, axis=0) + 0.15 * generator.normal(size=(1200, 16)))
    lists = balanced_lists(rows, 30)
    nearest = np.argsort(-(rows @ lists.centroids.T), axis=1)[:, :3]
    own = np.empty(1200, int)
    for number, members in enumerate(lists.members):
        own[members[members >= 0]] = number
    assert np.mean((nearest == own[:, None]).any(axis=1)) > 0.98
