"""Resizing, scaling and coverage against cases worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foldcam.benchmarks.evaluation.localization.metrics import (
    coverage,
    resize_bilinear,
    unit_range,
)

untimed = settings(deadline=None)  # no test asserts time

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
positive_maps = hnp.arrays(np.float64, shapes, elements=st.floats(0.01, 100.0))


@pytest.mark.parametrize("shape", [(224, 224), (4, 3), (13, 1), (7, 9)])
def test_resize_is_opencvs_bilinear(shape: tuple[int, int]) -> None:
    heatmap = np.random.default_rng(0).random((7, 5))
    expected = cv2.resize(heatmap, shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_bilinear(heatmap, shape), expected, atol=1e-12)


@untimed
@given(st.floats(-1e6, 1e6), st.integers(1, 9), st.integers(1, 9))
def test_resizing_keeps_a_plateau_flat_to_the_last_bit(value: float, h: int, w: int) -> None:
    assert (resize_bilinear(np.full((h, w), value), (31, 17)) == value).all()


@untimed
@given(positive_maps)
def test_resizing_stays_within_the_range(heatmap: np.ndarray) -> None:
    resized = resize_bilinear(heatmap, (20, 20))
    assert heatmap.min() <= resized.min() <= resized.max() <= heatmap.max()


def test_unit_range_of_a_flat_map_is_zero() -> None:
    assert (unit_range(np.full((2, 3), 7.0)) == 0.0).all()
    # (x - 2) / (6 - 2)
    np.testing.assert_array_equal(unit_range(np.array([[2.0, 3.0, 6.0]])), [[0.0, 0.25, 1.0]])


def test_coverage_of_a_box_that_cuts_cells() -> None:
    # Columns of 2 pixels: [0, 2) is covered from 1.5, so 0.25; [2, 4) up to 3, so 0.5.
    # Rows of 1 pixel: 1, then 0.5, then 0.
    covered = coverage(np.array([1.5, 0.0, 3.0, 1.5]), (3, 4), (3, 2))
    np.testing.assert_array_equal(covered, [[0.25, 0.5], [0.125, 0.25], [0.0, 0.0]])
