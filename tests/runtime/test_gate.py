"""The gate's figures and verdict, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.measurement.comparison.figures import (
    Answered,
    compare_answers,
    cosines,
    map_correlations,
    paired_interval,
)
from foldcam.runtime.measurement.comparison.verdict import GateLimits, failures_of


def _answered(heat, hit=(True, True), embedding=((1, 0), (0, 1)), rows=(0, 1)):
    return Answered(
        np.array(embedding, np.float32),
        np.array(heat, np.float32).reshape(2, 1, 1, -1),
        np.array(rows, np.int64),
        np.array(hit),
    )


BOTH = np.array([True, True])
MAPS = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_equal_answers_pass():
    figures, _ = compare_answers(_answered(MAPS), _answered(MAPS), BOTH)
    assert figures.heatmap_correlation_worst == 1.0
    assert figures.heat_shared_mean == 1.0
    assert failures_of(figures, GateLimits()) == []


def test_a_lost_hit_is_a_lost_half():
    figures, _ = compare_answers(_answered(MAPS), _answered(MAPS, (True, False)), BOTH)
    assert (figures.recall_reference, figures.recall) == (1.0, 0.5)
    assert "50.00 points" in failures_of(figures, GateLimits())[0]
    assert failures_of(figures, GateLimits(recall_lost=0.5)) == []


def test_heat_that_moved_is_not_shared():
    moved = [[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]
    figures, each = compare_answers(_answered(MAPS), _answered(moved), BOTH)
    assert figures.heat_shared_mean == pytest.approx(0.25)
    assert each.correlation.tolist() == pytest.approx([0.5, -0.5])
    assert each.worst(1) == [1]
    assert any("mean" in text for text in failures_of(figures, GateLimits()))


def test_heatmaps_of_other_grad_weights_are_not_compared():
    moved = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    figures, _ = compare_answers(_answered(MAPS), _answered(moved), np.array([True, False]))
    assert (figures.heatmaps_compared, figures.heatmap_correlation_mean) == (1, 1.0)
    assert figures.heatmap_correlation_all == pytest.approx(0.25)
    figures, _ = compare_answers(_answered(MAPS), _answered(moved), np.array([False, False]))
    assert "no heatmap" in failures_of(figures, GateLimits())[0]


def test_values_that_are_not_finite_fail():
    broken = [[0.0, np.nan, 0.0], [1.0, 0.0, 0.0]]
    figures, _ = compare_answers(_answered(MAPS), _answered(broken), BOTH)
    assert not figures.finite
    assert len(failures_of(figures, GateLimits())) == 3


def test_a_slower_model_fails_where_speed_was_measured():
    figures, _ = compare_answers(_answered(MAPS), _answered(MAPS), BOTH)
    assert failures_of(figures, GateLimits(), 1.2) == []
    assert "speed" in failures_of(figures, GateLimits(), 0.7)[0]


def test_the_share_of_heat_in_the_box_is_measured_for_both():
    boxes = np.array([[[False, True, False]], [[False, True, False]]])
    figures, _ = compare_answers(_answered(MAPS), _answered(MAPS), BOTH, boxes)
    assert (figures.heat_in_box_reference, figures.heat_in_box) == (0.5, 0.5)


def test_the_interval_of_a_recall_that_fell_by_hand():
    """Agresti and Min: 3 lost and 1 gained of 98, half an image added to each cell."""
    low, high = paired_interval(3, 1, 98)
    middle, half = 0.02, 1.96 * (3.5 + 1.5 - 4 / 100) ** 0.5 / 100
    assert (low, high) == pytest.approx((middle - half, middle + half))
    figures, _ = compare_answers(_answered(MAPS), _answered(MAPS, (True, False)), BOTH)
    assert figures.recall_lost_low < 0.5 < figures.recall_lost_high


def test_candidates_are_chosen_within_half_of_what_is_allowed():
    limits = GateLimits(recall_lost=0.04, estimate_error_added=0.02).to_choose_by(100)
    assert (limits.recall_lost, limits.estimate_error_added) == (0.02, 0.01)
    assert limits.heatmap_correlation_mean == pytest.approx(0.99)
    # One image is the least that can be lost.
    assert GateLimits().to_choose_by(20).recall_lost == 0.05


def test_maps_that_are_blank_in_both_agree_and_are_counted_apart():
    """A blank pair is no correlation of 0, nor does it dilute that of the others."""
    blank, half = [0.0, 0.0, 0.0], [0.0, 0.5, 0.5]
    figures, _ = compare_answers(_answered([MAPS[0], blank]), _answered([half, blank]), BOTH)
    assert (figures.heatmaps_compared, figures.heatmaps_blank) == (2, 1)
    assert figures.heatmap_correlation_mean == pytest.approx(0.5)
    assert figures.heatmap_correlation_worst == pytest.approx(0.5)
    assert figures.heatmap_correlation_all == pytest.approx(0.75)
    figures, _ = compare_answers(_answered([blank, blank]), _answered([blank, blank]), BOTH)
    assert (figures.heatmaps_blank, figures.heatmap_correlation_mean) == (2, 1.0)
    assert failures_of(figures, GateLimits()) == []
    # Blank in one model alone is a heatmap that was lost.
    figures, _ = compare_answers(_answered(MAPS), _answered([blank, MAPS[1]]), BOTH)
    assert (figures.heatmaps_blank, figures.heatmap_correlation_worst) == (0, 0.0)


def test_cosines_and_correlations_by_hand():
    zero, broken = [0.0, 0.0], [np.nan, 1.0]
    ours = np.array([[3.0, 4.0], zero, zero, broken], np.float32)
    theirs = np.array([[4.0, 3.0], zero, [1.0, 0.0], [0.0, 1.0]], np.float32)
    assert cosines(ours, theirs) == pytest.approx([0.96, 1.0, 0.0, np.nan], nan_ok=True)
    ours = np.array([[0.0, 1.0], zero, zero, broken, [0.4, 0.4]], np.float32)
    theirs = np.array([[1.0, 0.0], zero, [1.0, 0.0], [0.0, 1.0], [0.9, 0.9]], np.float32)
    found, blank = map_correlations(ours, theirs)
    assert found == pytest.approx([-1.0, 1.0, 0.0, np.nan, 0.0], nan_ok=True)
    assert blank.tolist() == [False, True, False, False, False]
    # Without a tolerance small values are a map like any other.
    assert map_correlations(ours[:1] * 1e-6, theirs[:1] * 1e-6, same=0)[0] == pytest.approx([-1])


def _signed(maps, **options):
    heat = np.maximum(maps, 0.0)
    return replace(
        _answered(heat / np.maximum(heat.max(axis=1, keepdims=True), 1e-12), **options),
        contribution=np.array(maps, np.float32)[:, None],
    )


def test_contributions_are_compared_with_their_signs_and_of_any_size():
    maps = np.array([[0.002, -0.002, 0.0], [0.03, 0.01, -0.02]])
    figures, _ = compare_answers(_signed(maps), _signed(0.5 * maps), BOTH)
    assert figures.contribution_correlation_worst == pytest.approx(1.0)
    turned = np.array([[0.002, -0.002, 0.0], [-0.03, -0.01, 0.02]])
    figures, _ = compare_answers(_signed(maps), _signed(turned), BOTH)
    assert figures.contribution_correlation_worst == pytest.approx(-1.0)
    assert figures.contribution_correlation_mean == pytest.approx(0.0, abs=1e-6)
    figures, _ = compare_answers(_signed(maps), _signed(turned), np.array([True, False]))
    assert figures.contribution_correlation_mean == pytest.approx(1.0)
    assert figures.document()["contribution_correlation_p5"] == pytest.approx(1.0)
    figures, _ = compare_answers(_signed(maps), _answered(MAPS), BOTH)
    assert figures.contribution_correlation_mean is None


def test_rounding_where_there_is_no_evidence_is_no_lost_heatmap():
    """Nothing speaks for the answer in the float model, and a hundredth in one cell of INT8's."""
    float_maps = np.array([[-0.5, -1.0, -0.2], [1.0, 0.0, -1.0]])
    rounded = np.array([[-0.5, -1.0, 0.008], [1.0, 0.0, -1.0]])
    figures, _ = compare_answers(_signed(float_maps), _signed(rounded), BOTH)
    assert (figures.heatmaps_blank, figures.heatmap_correlation_worst) == (1, pytest.approx(1.0))
    assert figures.heat_shared_worst == pytest.approx(1.0)
    assert failures_of(figures, GateLimits()) == []
    # More than rounding is a heatmap that one model has and the other has not.
    more = np.array([[-0.5, -1.0, 0.2], [1.0, 0.0, -1.0]])
    figures, _ = compare_answers(_signed(float_maps), _signed(more), BOTH)
    assert (figures.heatmaps_blank, figures.heatmap_correlation_worst) == (0, 0.0)
    assert failures_of(figures, GateLimits())


def test_contributions_that_are_not_finite_fail():
    maps = np.array([[0.5, -1.0, 0.2], [1.0, 0.0, -1.0]])
    broken = replace(_signed(maps), contribution=np.full((2, 1, 3), np.nan, np.float32))
    figures, _ = compare_answers(_signed(maps), broken, BOTH)
    assert not figures.finite
