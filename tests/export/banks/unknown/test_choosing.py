"""A threshold accepts what it says, of images that had no part in choosing it."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.banks.unknown.choosing import (
    LeftOut,
    auroc,
    label_folds,
    leave_labels_out,
    share_accepted,
    threshold_for,
)
from foldcam.export.banks.unknown.rows import Rows, similarity
from foldcam.runtime.system.errors import FoldcamError


def test_a_new_image_is_accepted_as_often_as_was_asked():
    generator = np.random.default_rng(0)
    drawn = generator.normal(size=(4000, 60))
    accepted = [row[59] >= threshold_for(row[:59], 0.9) for row in drawn]
    # From 1 - 6 / 60 to 1 - 5 / 60, and what 4,000 draws leave open.
    assert 0.89 < np.mean(accepted) < 0.93


def test_the_threshold_lies_a_little_below_the_score_that_it_accepts():
    scores = np.arange(19.0)
    # One of 19 is below it, so that a new one is with a probability of at most 2 / 20.
    assert threshold_for(scores, 0.9) == pytest.approx(1.0 - 1e-5, abs=1e-9)
    assert share_accepted(scores, threshold_for(scores, 0.9)) == 18 / 19
    assert -1e-4 < threshold_for(scores, 0.95) < 0.0
    close = [0.0, 1e-6, *range(1, 18)]
    assert 0.0 < threshold_for(close, 0.9) < 1e-6


def test_equal_scores_are_accepted_together():
    scores = [0.2] + [0.5] * 19
    assert share_accepted(scores, threshold_for(scores, 0.9)) == 0.95
    assert share_accepted([0.5] * 20, threshold_for([0.5] * 20, 0.9)) == 1.0
    # Another library's rounding moves none of them across it.
    assert threshold_for([0.5] * 20, 0.9) < 0.5 - 1e-7


def test_too_few_images_for_a_share_are_counted():
    with pytest.raises(FoldcamError, match="at least 19 of them, and there are 18"):
        threshold_for(np.zeros(18), 0.95)
    threshold_for(np.zeros(19), 0.95)


def test_a_score_that_is_nan_is_not_accepted():
    assert share_accepted([np.nan, 1.0], 0.5) == 0.5


def _rows() -> Rows:
    """Three labels on the axes of space, four rows each, a little apart."""
    units = np.repeat(np.eye(3), 4, axis=0) + 0.02 * np.random.default_rng(0).normal(size=(12, 3))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return Rows(units, np.repeat(np.arange(3), 4), ("a", "b", "c"))


def test_a_row_that_is_left_out_does_not_find_itself():
    rows = _rows()
    scores = LeftOut(rows).scores(similarity)
    assert (scores < 1.0 - 1e-9).all()
    assert (scores > 0.99).all()


def test_a_label_with_one_row_cannot_be_left_out():
    rows = Rows(np.eye(2), np.arange(2), ("a", "b"))
    assert len(LeftOut(rows).labels) == 0


def test_every_label_is_unknown_once():
    rows = _rows()
    images = LeftOut(rows, rows.units, rows.labels)
    folds = leave_labels_out(images, similarity, label_folds(rows.labels))
    assert len(folds) == 3
    np.testing.assert_array_equal(sum(fold.places.astype(int) for fold in folds), np.ones(12))
    for fold in folds:
        assert (fold.known > 0.999).all()
        assert (fold.unknown < 0.2).all()
        assert auroc(fold.known, fold.unknown) == 1.0


def test_one_label_leaves_none_to_compare_with():
    rows = Rows(np.eye(2), np.zeros(2, np.int64), ("a",))
    images = LeftOut(rows, rows.units, rows.labels)
    assert leave_labels_out(images, lambda r, u: None, label_folds(rows.labels)) == []


def test_many_labels_are_left_out_ten_groups_at_a_time():
    folds = label_folds(np.arange(57))
    assert len(folds) == 10
    assert sorted(np.concatenate(folds).tolist()) == list(range(57))
