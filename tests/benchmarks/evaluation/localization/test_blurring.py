"""Cells that are blurred: which, and nothing else."""

import numpy as np

from foldcam.benchmarks.evaluation.localization.perturbation import (
    CellBlur,
    hottest,
    photograph_window,
)
from foldcam.runtime.images.preprocess import Preprocessing

SIDE, CELLS = 70, 7


def test_hottest_takes_the_share_of_the_cells():
    heat = np.arange(49.0).reshape(7, 7)
    assert np.array_equal(np.flatnonzero(hottest(heat, 0.2)), np.arange(39, 49))
    assert hottest(np.zeros((7, 7)), 0.2).sum() == 10
    assert hottest(np.zeros((2, 2)), 0.01).sum() == 1


def test_only_the_given_cells_are_blurred():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    cells = np.zeros((CELLS, CELLS), bool)
    np.testing.assert_array_equal(CellBlur(image)(cells), image)
    cells[3, 3] = True
    after = CellBlur(image)(cells).astype(int)
    changed = np.abs(after - image).max(axis=2)
    assert changed[32:38, 32:38].mean() > 20
    assert changed[:20].max() == changed[:, 55:].max() == 0
    assert after[33:37, 33:37].std() < 0.5 * image[33:37, 33:37].std()


def test_cells_are_hidden_whole_where_that_is_asked_for():
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[::2] = 255
    cells = np.zeros((CELLS, CELLS), bool)
    cells[3, 3] = True
    everything = CellBlur(image)(np.ones((CELLS, CELLS), bool))
    whole, half = (CellBlur(image, whole=each)(cells) for each in (True, False))
    inside = (slice(30, 40), slice(30, 40))
    assert np.abs(whole[inside].astype(int) - everything[inside]).max() <= 20
    assert np.abs(half[inside].astype(int) - everything[inside]).max() > 60
    np.testing.assert_array_equal(whole[:20], image[:20])


def test_padding_is_neither_blurred_nor_runs_into_the_photograph():
    recipe = Preprocessing(width=70, height=70, resize="letterbox", mean=(1.0, 1.0, 1.0))
    photograph = np.zeros((35, 70, 3), np.uint8)
    resized, affine = recipe.resized(photograph)
    window = photograph_window(affine, (70, 35), (70, 70))
    after = CellBlur(resized, window)(np.ones((CELLS, CELLS), bool))
    np.testing.assert_array_equal(after, resized)
    assert resized.max() == 255
    assert not after[window].any()


def test_where_nothing_is_padded_the_photograph_is_the_whole_input():
    image = np.zeros((50, 90, 3), np.uint8)
    for rule in ("stretch", "crop"):
        _, affine = Preprocessing(width=70, height=70, resize=rule).resized(image)
        assert photograph_window(affine, (90, 50), (70, 70)) == (slice(0, 70), slice(0, 70))
