"""What is drawn around things is where they are, and can be seen."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from foldcam.runtime.model.drawing.overlay import overlay, overlay_both
from foldcam.runtime.model.drawing.picture import box_of, draw_box, draw_contour, hottest_region
from foldcam.runtime.model.drawing.text import draw_labels


def heat_of(*spots: tuple[int, int, int, int, float]) -> np.ndarray:
    """`float32 [40, 60]` with rectangles `x, y, width, height, heat`."""
    heat = np.zeros((40, 60), np.float32)
    for x, y, width, height, value in spots:
        heat[y : y + height, x : x + width] = value
    return heat


def test_the_hottest_region_is_the_connected_one_around_the_maximum():
    heat = heat_of((2, 3, 10, 5, 0.9), (30, 20, 8, 6, 1.0), (29, 19, 12, 10, 0.0))
    heat[20:26, 30:38] = 1.0
    heat[26, 30:38] = 0.49
    mask = hottest_region(heat)
    assert box_of(mask) == (30, 20, 8, 6)
    assert mask.sum() == 48
    # Of a weak map the region is as large: the level is a share of the maximum.
    np.testing.assert_array_equal(hottest_region(heat * 0.01), mask)


@pytest.mark.parametrize(
    "heat", [np.zeros((4, 5), np.float32), np.full((4, 5), np.nan, np.float32)]
)
def test_nothing_hot_has_no_hottest_region(heat):
    assert hottest_region(heat) is None


def test_not_finite_heat_is_cold():
    heat = heat_of((5, 5, 3, 3, 0.5))
    heat[0, 0], heat[39, 59] = np.nan, np.inf
    assert box_of(hottest_region(heat)) == (5, 5, 3, 3)


@pytest.mark.parametrize("background", [0, 127, 255])
def test_lines_have_both_colours_on_any_background(background):
    for draw in (
        lambda image: draw_box(image, (10, 8, 30, 20)),
        lambda image: draw_contour(image, (heat_of((10, 8, 30, 20, 1.0)) > 0).astype(np.uint8)),
    ):
        image = np.full((40, 60, 3), background, np.uint8)
        draw(image)
        row = image[18, :, 0]
        assert row[:14].min() == 0
        assert row[:14].max() == 255
        assert (image[16:20, 16:34] == background).all()


def test_a_box_beside_the_image_is_drawn_as_far_as_it_is_there():
    image = np.full((40, 60, 3), 127, np.uint8)
    draw_box(image, (-20, -20, 40, 40))
    draw_labels(image, [("owl", (-20, -20, 40, 40))])
    draw_box(image, (500, 500, 10, 10))
    assert (image != 127).any()


@pytest.mark.parametrize("background", [0, 127, 255])
@pytest.mark.parametrize(
    "box", [(50, 60, 80, 40), (0, 0, 30, 30), (250, 150, 90, 90), (0, 2, 300, 5)]
)
def test_a_label_is_white_on_dark_and_within_the_image(background, box):
    image = np.full((200, 300, 3), background, np.uint8)
    draw_labels(image, [("Snowy öwl  0.93", box)])
    changed = np.flatnonzero((image != background).any(axis=(1, 2)))
    letters = (image > 200).all(axis=2)[changed[0] : changed[-1] + 1]
    assert letters.sum() > 30 or background == 255
    assert changed[-1] - changed[0] < 40
    strip = image[changed[0] : changed[-1] + 1]
    assert strip.max() == 255
    assert strip.min() < 64


@pytest.mark.parametrize(
    "boxes",
    [
        [(50, 60, 80, 40)],  # room above
        [(50, 0, 80, 170)],  # only below
        [(50, 0, 80, 200)],  # only beside
        [(200, 0, 100, 200)],  # only on the left
        [(20, 60, 100, 60), (20, 40, 140, 18), (150, 60, 100, 60)],  # others are above
    ],
)
def test_a_label_covers_no_box_where_there_is_room(boxes):
    image = np.full((200, 300, 3), 127, np.uint8)
    draw_labels(image, [(f"owl 0.{number}", box) for number, box in enumerate(boxes)])
    for x, y, width, height in boxes:
        assert (image[y : y + height, x : x + width] == 127).all()
    plates = (image != 127).any(axis=2)
    _, count = cv2.connectedComponents(plates.astype(np.uint8))
    assert count.max() == len(boxes)


def test_the_label_of_a_box_that_fills_the_image_is_at_its_edge():
    image = np.full((200, 300, 3), 127, np.uint8)
    draw_labels(image, [("owl", (0, 0, 300, 200))])
    rows = np.flatnonzero((image != 127).any(axis=(1, 2)))
    assert rows[-1] == 199 or rows[0] == 0
    assert len(rows) < 30


def test_a_label_longer_than_the_image_is_shortened():
    image = np.full((60, 80, 3), 200, np.uint8)
    draw_labels(image, [("x" * 500, (10, 30, 20, 20))])
    assert (image[:, -2:] == 200).all() or (image != 200).any()
    draw_labels(np.zeros((3, 3, 3), np.uint8), [("owl", (0, 0, 2, 2))])


def test_heat_below_the_threshold_is_not_painted():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    heat = heat_of((0, 0, 30, 40, 0.29), (30, 0, 30, 40, 0.31))
    painted = overlay(image, heat, 1.0, threshold=0.3)
    np.testing.assert_array_equal(painted[:, :30], image[:, :30])
    assert (painted[:, 30:] != image[:, 30:]).any()
    both = overlay_both(image, heat, heat_of(), 1.0, threshold=0.3)
    grey = overlay_both(image, heat_of(), heat_of(), 1.0)
    np.testing.assert_array_equal(both[:, :30], grey[:, :30])
    assert (both[:, 30:] != grey[:, 30:]).any()
