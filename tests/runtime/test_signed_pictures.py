"""Pictures of signed maps: for is warm, against is cold, and a blank map is said to be one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import PurePath

import cv2
import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.drawing.maps import maps_of
from foldcam.runtime.model.drawing.overlay import overlay_both
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result, Timings, draw_result
from foldcam.runtime.sources.base import Frame
from foldcam.runtime.system.errors import FoldcamError

SIGNED = np.array([[0.02, -0.04], [0.0, 0.01]], np.float32)
IMAGE = np.full((80, 80, 3), 120, np.uint8)


def result_of(**changes) -> Result:
    result = Result(
        embedding=np.ones(2, np.float32),
        heatmap=np.maximum(SIGNED, 0) / SIGNED.max(),
        neighbors=np.array([4], np.int32),
        similarities=np.array([0.8], np.float32),
        labels=["owl"],
        affine=Affine(10, 10, 0, 0),
        input_wh=(8, 8),
        frame_wh=(80, 80),
        timings=Timings(0.0, 0.0),
        contribution=SIGNED,
        contrast=SIGNED.T.copy(),
        runner_up=9,
        runner_up_label="gull",
        runner_up_similarity=0.7,
    )
    return replace(result, **changes)


def item_of(*results: Result, **style) -> FrameResults:
    frame = Frame(IMAGE, 0, "cam", PurePath("cam"), 0.0, time.monotonic(), 0)
    return FrameResults(frame, results, Style(**style))


def test_both_signs_are_shares_of_one_maximum():
    raising, lowering = maps_of(result_of(), "contribution")
    np.testing.assert_allclose(raising, [[0.5, 0], [0, 0.25]], atol=1e-6)
    np.testing.assert_allclose(lowering, [[0, 1], [0, 0]], atol=1e-6)
    raising, _ = maps_of(result_of(), "contrast")
    np.testing.assert_allclose(raising, [[0.5, 0], [0, 0.25]], atol=1e-6)
    blank, cold = maps_of(result_of(contribution=np.zeros((2, 2), np.float32)), "contribution")
    assert not blank.any()
    assert not cold.any()


def test_the_heatmap_is_drawn_as_before_unless_another_map_is_asked_for():
    item = item_of(result_of())
    assert item.maps[0][1] is None
    old = item_of(result_of(contribution=None, contrast=None))
    np.testing.assert_array_equal(item.image, old.image)


def test_for_is_warm_and_against_is_cold_on_the_frame():
    drawn = draw_result(IMAGE, result_of(), opacity=1.0, map="contribution").astype(int)
    warm, cold, neither = drawn[5, 5], drawn[5, 75], drawn[50, 5]
    assert warm[0] > warm[2] + 50
    assert cold[2] > cold[0] + 100
    assert neither.max() - neither.min() < 60


def test_the_contrast_names_the_runner_up():
    assert item_of(result_of(), map="contrast").caption == "owl  0.80, not gull  0.70"
    assert item_of(result_of()).caption == "owl  0.80"


def test_a_blank_map_is_said_in_the_caption():
    blank = result_of(heatmap=np.zeros((2, 2), np.float32), contribution=-np.abs(SIGNED))
    assert item_of(blank).caption == "owl  0.80, no evidence"
    lower = np.zeros((2, 2), np.float32)
    estimated = replace(blank, labels=[], estimate=12.0, heatmap_lower=lower)
    assert item_of(estimated).caption == "estimate 12, no evidence"
    assert item_of(replace(estimated, heatmap_lower=lower + 1)).caption == "estimate 12"


def test_a_map_that_the_model_does_not_have_is_refused():
    old = result_of(contrast=None)
    with pytest.raises(FoldcamError, match=r"no map 'contrast': export the model again with --con"):
        draw_result(IMAGE, old, map="contrast")


def test_regions_have_their_own_maximum_and_a_frame_without_any_stays_grey():
    left = result_of(box=(0, 0, 40, 80), affine=Affine(5, 10, 0, 0))
    right = result_of(
        box=(40, 0, 40, 80), affine=Affine(5, 10, 40, 0), contribution=SIGNED * np.float32(0.1)
    )
    style = {"map": "contribution", "boxes": False, "caption": False}
    drawn = item_of(left, right, **style).image.astype(int)
    np.testing.assert_allclose(drawn[:, :40], drawn[:, 40:], atol=1)
    np.testing.assert_array_equal(item_of(**style).image, IMAGE)


def test_what_is_marked_is_what_speaks_for_the_answer_in_the_map_that_is_drawn():
    moved = np.array([[-0.01, 0.0], [0.0, 0.03]], np.float32)
    style = {"map": "contrast", "mark": "box", "caption": False}
    drawn = item_of(result_of(contrast=moved), **style).image
    plain = item_of(result_of(contrast=moved), map="contrast", caption=False).image
    changed = (drawn != plain).any(axis=2)
    assert changed[40:, 40:].any()
    assert not changed[:35, :35].any()


def test_the_heat_of_events_is_that_of_the_heatmap_whatever_is_drawn():
    heat = item_of(result_of(), map="contrast").heat
    np.testing.assert_array_equal(heat, item_of(result_of()).heat)


@pytest.mark.parametrize("background", [0, 255])
def test_both_colours_show_on_any_background(background):
    image = np.full((20, 20, 3), background, np.uint8)
    one, zero = np.ones((20, 20), np.float32), np.zeros((20, 20), np.float32)
    warm, cold = overlay_both(image, one, zero), overlay_both(image, zero, one)
    apart = cv2.absdiff(warm, cold).max()
    assert apart > 100
