"""Where labels differ counts; where pictures of one label differ does not."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.banks.unknown.rows import (
    Rows,
    label_space,
    similarity,
    similarity_and_margin,
    whitened,
)


def _spread_along_x(each: int = 40) -> Rows:
    """Two labels apart along y; their pictures differ along x, ten times as much."""
    generator = np.random.default_rng(0)
    units = np.zeros((2 * each, 3))
    units[:, 0] = generator.normal(0, 0.3, 2 * each)
    units[:, 1] = np.repeat([0.3, -0.3], each) + generator.normal(0, 0.03, 2 * each)
    units[:, 2] = 1.0
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return Rows(units, np.repeat([0, 1], each), ("up", "down"))


def _unit(*values: float) -> np.ndarray:
    return np.asarray([values]) / np.linalg.norm(values)


def test_what_lies_between_two_labels_is_less_known_than_a_spread_picture():
    rows = _spread_along_x()
    spread, between = _unit(0.5, 0.3, 1.0), _unit(0.0, 0.0, 1.0)
    assert whitened(rows, spread)[0] > whitened(rows, between)[0] + 0.3
    # The similarity sees no such difference.
    assert abs(similarity(rows, spread)[0] - similarity(rows, between)[0]) < 0.1


def test_scores_are_cosines_and_the_means_are_of_norm_1():
    rows = _spread_along_x()
    space = label_space(rows.units, rows.labels)
    np.testing.assert_allclose(np.linalg.norm(space.means, axis=1), 1.0)
    scores = space.scores(rows.units)
    assert (np.abs(scores) <= 1.0 + 1e-12).all()
    norms = np.linalg.norm((rows.units - space.centre) @ space.transform, axis=1)
    assert norms.mean() == pytest.approx(1.0)


def test_the_centre_itself_has_a_score_that_is_finite():
    rows = _spread_along_x()
    space = label_space(rows.units, rows.labels)
    assert np.isfinite(space.scores(space.centre[None])).all()


@pytest.mark.parametrize(
    ("units", "labels"),
    [(np.eye(3), [0, 0, 0]), (np.eye(3), [0, 1, 2]), (np.eye(2)[[0, 0, 1, 1]], [0, 0, 1, 1])],
    ids=["one label", "one row each", "rows that do not differ"],
)
def test_rows_that_do_not_say_how_labels_spread_have_no_space(units, labels):
    assert label_space(units, np.asarray(labels)) is None


def test_the_margin_is_to_the_next_label_and_not_to_the_next_row():
    units = np.asarray([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    rows = Rows(units, np.asarray([0, 0, 1]), ("a", "b"))
    assert similarity_and_margin(rows, units[:1])[0] == pytest.approx(2.0 * 1.0 - 0.0)
    one_label = Rows(units, np.zeros(3, np.int64), ("a",))
    assert similarity_and_margin(one_label, units[:1]) is None
