"""Shares of heat and pointing against cases worked out by hand; see the comments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foldcam.benchmarks.evaluation.localization.metrics import (
    centred_blob,
    grid_pointing,
    heat_in_box,
    pointing,
)

# Cells of 2 x 2 pixels on an image of 4 x 4; the heat sums to 10.
MAP = np.array([[1.0, 2.0], [3.0, 4.0]])
SIZE = (4, 4)

untimed = settings(deadline=None)  # no test asserts time

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
positive_maps = hnp.arrays(np.float64, shapes, elements=st.floats(0.01, 100.0))


@st.composite
def boxes_and_sizes(draw: st.DrawFn) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    x0, y0 = draw(st.floats(-50, 300)), draw(st.floats(-50, 300))
    box = (x0, y0, x0 + draw(st.floats(0.01, 300)), y0 + draw(st.floats(0.01, 300)))
    return box, (height, width)


# --- Share of heat -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 4, 4), 1.0),
        ((1, 1, 3, 3), 0.25),  # a quarter of every cell: 10 / 4 / 10
        ((0, 0, 2, 4), 0.4),  # the left column: (1 + 3) / 10
        ((0, 0, 3, 4), 0.7),  # one pixel more: + half of the right one, (4 + 6 / 2) / 10
        ((2, 0, 4, 4), 0.6),  # touches the border: (2 + 4) / 10
        ((2, 0, 9, 9), 0.6),  # reaches beyond it: the same
        ((3, 3, 4, 4), 0.1),  # one pixel, a quarter of the cell of 4: 1 / 10
        ((0.5, 0, 1, 2), 0.025),  # a quarter of the cell of 1: 0.25 / 10
        ((4, 0, 8, 4), 0.0),  # outside: x0 = 4 is the first column that does not exist
        ((-3, -3, 0, 0), 0.0),
    ],
)
def test_heat_in_box_by_hand(box: tuple[float, ...], expected: float) -> None:
    assert heat_in_box(MAP, box, SIZE) == pytest.approx(expected, abs=1e-15)


def test_no_heat_has_no_share() -> None:
    assert heat_in_box(np.zeros((7, 7)), (0, 0, 4, 4), SIZE) == 0.0


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e300])
def test_heat_in_box_does_not_depend_on_the_scale_of_the_map(scale: float) -> None:
    heatmap = np.full((2, 2), scale)
    assert heat_in_box(heatmap, (0, 0, 2, 4), SIZE) == 0.5


@untimed
@given(shapes, st.floats(0.001, 1000), boxes_and_sizes())
def test_uniform_map_has_the_share_of_the_area(shape, value, box_and_size) -> None:  # type: ignore[no-untyped-def]
    (x0, y0, x1, y1), (height, width) = box_and_size
    inside = max(0.0, min(x1, width) - max(x0, 0.0)) * max(0.0, min(y1, height) - max(y0, 0.0))
    share = heat_in_box(np.full(shape, value), (x0, y0, x1, y1), (height, width))
    assert share == pytest.approx(inside / (height * width), abs=1e-9)


@untimed
@given(positive_maps, st.integers(1, 63))
def test_the_two_halves_of_an_image_share_its_heat(heatmap: np.ndarray, cut: int) -> None:
    left = heat_in_box(heatmap, (0, 0, cut, 64), (64, 64))
    right = heat_in_box(heatmap, (cut, 0, 64, 64), (64, 64))
    assert left + right == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("heatmap", "box", "message"),
    [
        (MAP[None], (0, 0, 4, 4), r"shape \[h, w\]"),
        (np.array([[1.0, np.nan]]), (0, 0, 4, 4), "NaN"),
        (-MAP, (0, 0, 4, 4), "negative"),
        (MAP, (2, 2, 2, 4), "half-open"),  # the inclusive corners of one column
        (MAP, (3, 0, 1, 4), "half-open"),
        (MAP, (0, 0, np.inf, 4), "half-open"),
        (MAP, (0, 0, 4), "x0, y0, x1, y1"),
    ],
)
def test_heat_in_box_refuses(heatmap: np.ndarray, box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heat_in_box(heatmap, box, SIZE)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="height, width"):
        heat_in_box(MAP, (0, 0, 1, 1), (0, 4))


# --- Pointing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 4, 4), 1.0),  # the maximum, 4, has its centre at (3, 3)
        ((3, 3, 4, 4), 1.0),  # x0 belongs to the box
        ((0, 0, 3, 3), 0.0),  # x1 does not
        ((0, 0, 3.01, 3.01), 1.0),
        ((0, 0, 3, 4), 0.0),
        ((0, 0, 4, 3), 0.0),
        ((8, 8, 9, 9), 0.0),
    ],
)
def test_pointing_by_hand(box: tuple[float, ...], expected: float) -> None:
    assert pointing(MAP, box, SIZE) == expected


def test_tied_maxima_share_the_hit() -> None:
    # Centres (1, 1), (3, 1), (3, 3) share the maximum; the box holds the first two.
    assert pointing([[5, 5], [0, 5]], (0, 0, 4, 2), SIZE) == pytest.approx(2 / 3)


def test_a_uniform_map_points_by_chance_and_an_empty_one_nowhere() -> None:
    assert pointing(np.ones((2, 2)), (0, 0, 2, 2), SIZE) == 0.25
    assert pointing(np.zeros((2, 2)), (0, 0, 4, 4), SIZE) == 0.0
    assert pointing(-np.ones((2, 2)), (0, 0, 4, 4), SIZE) == 0.0


# --- Grid pointing -------------------------------------------------------------------------------


def test_grid_pointing_by_hand() -> None:
    assert [grid_pointing(MAP, 2, 2, i) for i in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    # One row of two: columns (1 + 3) / 10 and (2 + 4) / 10.
    assert [grid_pointing(MAP, 1, 2, i) for i in range(2)] == pytest.approx([0.4, 0.6])


def test_grid_pointing_splits_the_cells_on_the_grids_lines() -> None:
    heatmap = np.zeros((3, 3))
    heatmap[0, 1] = 1.0  # half left, half right of the line
    assert [grid_pointing(heatmap, 2, 2, i) for i in range(4)] == [0.5, 0.5, 0.0, 0.0]
    heatmap[:] = 0.0
    heatmap[1, 1] = 1.0  # the middle belongs to all four
    assert [grid_pointing(heatmap, 2, 2, i) for i in range(4)] == [0.25] * 4


@untimed
@given(shapes, st.integers(1, 4), st.integers(1, 4), st.data())
def test_grid_pointing_of_a_uniform_map_is_chance(shape, rows, columns, data) -> None:  # type: ignore[no-untyped-def]
    cell = data.draw(st.integers(0, rows * columns - 1))
    expected = pytest.approx(1 / (rows * columns))
    assert grid_pointing(np.ones(shape), rows, columns, cell) == expected


@untimed
@given(positive_maps, st.integers(1, 4), st.integers(1, 4))
def test_the_grids_cells_share_all_the_heat(heatmap: np.ndarray, rows: int, columns: int) -> None:
    shares = [grid_pointing(heatmap, rows, columns, i) for i in range(rows * columns)]
    assert sum(shares) == pytest.approx(1.0)


def test_grid_pointing_of_no_heat_is_zero() -> None:
    assert grid_pointing(np.zeros((4, 4)), 2, 2, 0) == 0.0


@pytest.mark.parametrize(("rows", "columns", "cell"), [(2, 2, 4), (2, 2, -1), (0, 2, 0)])
def test_grid_pointing_refuses_cells_outside_the_grid(rows: int, columns: int, cell: int) -> None:
    with pytest.raises(ValueError, match="grid"):
        grid_pointing(MAP, rows, columns, cell)


# --- Centred blob --------------------------------------------------------------------------------


def test_centred_blob_by_hand() -> None:
    # Cells lie at -1/3, 0, 1/3 of the side: exp(-(1/9) / (2 / 16)) = exp(-8/9) beside the centre.
    blob = centred_blob(3, 3)
    edge = math.exp(-8 / 9)
    np.testing.assert_allclose(
        blob, [[edge**2, edge, edge**2], [edge, 1, edge], [edge**2, edge, edge**2]]
    )


@untimed
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 2.0))
def test_centred_blob_is_symmetric_with_maximum_one(h: int, w: int, sigma: float) -> None:
    blob = centred_blob(h, w, sigma)
    assert blob.shape == (h, w)
    assert blob.max() == 1.0
    assert blob.min() >= 0.0
    np.testing.assert_allclose(blob, blob[::-1, ::-1])


@pytest.mark.parametrize(("h", "w", "sigma"), [(0, 3, 0.25), (3, 0, 0.25), (3, 3, 0.0)])
def test_centred_blob_refuses(h: int, w: int, sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma > 0"):
        centred_blob(h, w, sigma)
