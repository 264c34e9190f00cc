"""The picture that was matched, drawn beside the frame with its own heat."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.folded_model import Result, Timings
from foldcam.runtime.model.match import draw_beside, row_picture, side_by_side, with_match


@pytest.fixture
def gallery(gallery_of, contract_with):
    with Gallery(gallery_of(), contract_with()) as opened:
        yield opened


def result_of(row: int = 1, **changes) -> Result:
    result = Result(
        embedding=np.zeros(3, np.float32), heatmap=np.ones((2, 2), np.float32),
        neighbors=np.array([row], np.int32), similarities=np.array([0.5], np.float32),
        labels=["green"], affine=Affine(30.0, 30.0, 0.0, 0.0), input_wh=(8, 8),
        frame_wh=(240, 240), timings=Timings(0.0, 0.0),
    )  # fmt: skip
    return dataclasses.replace(result, **changes)


def test_a_rows_picture_is_hot_where_its_own_evidence_is(gallery):
    plain = row_picture(gallery, 2, Style(opacity=0.0))
    hot = row_picture(gallery, 2, Style(opacity=1.0))
    changed = abs(hot.astype(int) - plain).max(2)
    assert changed[50:, :12].min() > 60
    assert changed[:10, 60:].max() < 12


def test_a_signed_map_has_two_colours_and_a_contrast_falls_back_to_it(tmp_path, contract_with):
    from foldcam.runtime.contract.gallery import GalleryWriter

    with (tmp_path / "a.gallery").open("wb") as file:
        writer = GalleryWriter(file, contract_with())
        for _ in range(3):
            cells = np.array([[0.5, -0.5], [0.5, -0.5]], np.float32)
            writer.add(np.full((60, 80, 3), 128, np.uint8), cells, "")
        writer.finish()
    with Gallery(tmp_path / "a.gallery", contract_with()) as opened:
        for name in ("contribution", "contrast"):
            drawn = row_picture(opened, 0, Style(opacity=1.0, map=name)).astype(int)
            assert drawn[30, 4, 0] > drawn[30, 4, 2] + 100
            assert drawn[30, 75, 2] > drawn[30, 75, 0] + 100
        positive = row_picture(opened, 0, Style(opacity=1.0)).astype(int)
        assert abs(positive[30, 75] - 128).max() < 12


def test_beside_a_centre_crop_there_is_no_heat(gallery_of, contract_with):
    with Gallery(gallery_of(), contract_with(resize="crop")) as opened:
        plain = row_picture(opened, 2, Style(opacity=0.0)).astype(int)
        hot = row_picture(opened, 2, Style(opacity=1.0)).astype(int)
    changed = abs(hot - plain).max(2)
    # Of 80 x 60 pixels the network was shown the 60 in the middle.
    assert changed[45:, :8].max() < 12
    assert changed[50:, 12:20].min() > 60


def test_the_size_depends_on_the_frame_alone(gallery):
    frame = np.zeros((240, 320, 3), np.uint8)
    sizes = {
        with_match(frame, each, gallery, Style()).shape
        for each in (result_of(0), result_of(2), None, result_of(error="NaN"))
    }
    assert len(sizes) == 1


def test_the_frame_stays_as_it_is_and_the_match_is_the_nearest_rows(gallery):
    frame = np.full((240, 240, 3), 77, np.uint8)
    drawn = with_match(frame, result_of(1), gallery, Style(opacity=0.0))
    assert (drawn[:240, :240] == 77).all()
    assert abs(drawn[40, 300].astype(int) - (30, 200, 40)).max() < 6
    without = with_match(frame, result_of(error="the network returned NaN"), gallery, Style())
    assert (without[40, 250:] < 40).all()


def test_pictures_of_any_size_are_put_beside_each_other():
    for left in ((1, 1), (30, 400), (700, 20)):
        for right in ((1, 1), (500, 3), (3, 500)):
            drawn = side_by_side(
                np.zeros((*left, 3), np.uint8), np.full((*right, 3), 255, np.uint8),
                ["a label", "another line"], 100,
            )  # fmt: skip
            assert drawn.shape[0] == max(96, left[0])
            assert drawn.shape[1] > left[1] + 100
            assert (drawn[:, left[1] :] == 255).all(2).any()


def test_a_photograph_and_its_match_are_drawn_in_one_call(gallery):
    image = np.zeros((240, 240, 3), np.uint8)
    alone = result_of().draw(image, caption=True)
    beside = draw_beside(image, result_of(), gallery)
    assert (beside[: alone.shape[0], :240] == alone).all()
    assert beside.shape[1] > 240
