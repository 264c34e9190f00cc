"""Shares of the evidence in a box, by hand: cells are split by area, on the frame's own pixels."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.model.evidence import Share, total
from foldcam.runtime.model.result import Result, Timings
from foldcam.runtime.system.errors import FoldcamError

SIGNED = [[3.0, -1.0], [1.0, -3.0]]
SAME = Affine(1, 1, 0, 0)


def result_of(contribution=None, affine=SAME, frame_wh=(8, 8), **changes) -> Result:
    signed = None if contribution is None else np.asarray(contribution, np.float32)
    given = {
        "heatmap": np.zeros((2, 2), np.float32) if signed is None else np.maximum(signed, 0),
        **changes,
    }
    return Result(
        embedding=np.ones(2, np.float32),
        neighbors=np.array([0], np.int32),
        similarities=np.ones(1, np.float32),
        labels=["owl"],
        affine=affine,
        input_wh=(8, 8),
        frame_wh=frame_wh,
        timings=Timings(0.0, 0.0),
        contribution=signed,
        **given,
    )


def test_whole_cells_and_half_cells():
    result = result_of(SIGNED)
    assert (result.evidence_for, result.evidence_against) == (4.0, 4.0)
    assert result.share((0, 0, 4, 4)) == Share(0.75, 0.0)
    # Half of both cells of the upper row.
    assert result.share((2, 0, 4, 4)) == Share(0.375, 0.125)
    # A quarter of each cell.
    assert result.share((2, 2, 4, 4)) == Share(0.25, 0.25)
    assert result.share((0, 0, 8, 8)) == Share(1.0, 1.0)
    assert result.share((0.5, 0, 1, 4)) == Share(0.1875, 0.0)


def test_a_box_outside_has_nothing_and_one_that_is_larger_has_all():
    result = result_of(SIGNED)
    assert result.share((8, 0, 4, 4)) == Share(0.0, 0.0)
    assert result.share((-50, -50, 10, 10)) == Share(0.0, 0.0)
    assert result.share((-50, -50, 500, 500)) == Share(1.0, 1.0)


@pytest.mark.parametrize(
    ("contribution", "expected"),
    [(np.zeros((2, 2)), Share(None, None)), (-np.ones((2, 2)), Share(None, 0.25)),
     (np.ones((2, 2)), Share(0.25, None))],
)  # fmt: skip
def test_where_there_is_no_evidence_there_is_no_share(contribution, expected):
    assert result_of(contribution).share((0, 0, 4, 4)) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_with_a_number_that_is_none_has_no_share(value):
    assert result_of([[value, 1.0], [1.0, -1.0]]).share((0, 0, 4, 4)) == Share(None, None)


def test_padding_is_in_no_box_of_a_letterboxed_picture():
    """16 x 8 in 8 x 8: a pixel of the input is 2 of the frame, with 2 rows above and below."""
    _, affine = Preprocessing(8, 8, "letterbox").resized(np.zeros((8, 16, 3), np.uint8))
    assert affine == Affine(2, 2, 0, -4)
    rows = np.array([[4.0], [2.0], [1.0], [1.0]], np.float32).repeat(4, axis=1)
    result = result_of(rows, affine, (16, 8))
    # The first and the last row of cells lie in the padding: 5 of 8.
    assert result.share((0, 0, 16, 8)).evidence_for == pytest.approx(3 / 8)
    assert result.share((0, -4, 16, 16)).evidence_for == pytest.approx(3 / 8)
    assert result.share((0, 0, 8, 4)).evidence_for == pytest.approx(1 / 8)


def test_beside_a_centre_crop_there_is_nothing():
    _, affine = Preprocessing(8, 8, "crop").resized(np.zeros((8, 16, 3), np.uint8))
    result = result_of(SIGNED, affine, (16, 8))
    assert result.share((0, 0, 4, 8)) == Share(0.0, 0.0)
    assert result.share((4, 0, 4, 4)) == Share(0.75, 0.0)
    assert result.share((0, 0, 16, 8)) == Share(1.0, 1.0)


def test_a_regions_padding_lies_over_pixels_that_the_network_was_not_shown():
    _, affine = Preprocessing(8, 8, "letterbox").resized(np.zeros((8, 16, 3), np.uint8))
    box = (10, 20, 16, 8)
    rows = np.ones((4, 4), np.float32)
    result = result_of(rows, affine.shifted(10, 20), (100, 100), box=box)
    assert result.share((0, 0, 100, 100)).evidence_for == pytest.approx(0.5)
    assert result.share((10, 24, 8, 40)).evidence_for == pytest.approx(0.125)
    assert result.share((0, 0, 100, 20)).evidence_for == 0.0


def test_without_contributions_the_heatmap_says_what_is_for_it():
    result = result_of(None, heatmap=np.array([[1.0, 0.5], [0.5, 0.0]], np.float32))
    assert result.share((0, 0, 4, 4)) == Share(0.5, None)


@pytest.mark.parametrize(
    ("box", "message"),
    [((0, 0, 0, 4), "no area"), ((0, 0, 4, -1), "no area"), ((0, 0, np.nan, 4), "pixels"),
     ((0, 0, 4), "pixels"), ((0, 0, np.inf, 4), "pixels")],
)  # fmt: skip
def test_an_impossible_box_is_refused(box, message):
    with pytest.raises(FoldcamError, match=message):
        result_of(SIGNED).share(box)


def test_totals_of_many_small_numbers_are_exact():
    signed = np.full((300, 300), 1e-4, np.float32)
    signed[:, ::2] *= -1
    found = total(signed), total(-signed)
    assert found == pytest.approx((4.5, 4.5), rel=1e-6)


def test_shares_of_a_grid_add_up_to_one():
    random = np.random.default_rng(0)
    result = result_of(random.normal(size=(5, 7)), Affine(3.3, 2.1, 0, 0), (27, 17))
    shares = [result.share((x, y, 9, 8.5)) for x in (0, 9, 18) for y in (0, 8.5)]
    # The frame is a little larger than what the input covers, 26.4 x 16.8.
    assert sum(each.evidence_for for each in shares) == pytest.approx(1.0)
    assert sum(each.evidence_against for each in shares) == pytest.approx(1.0)
