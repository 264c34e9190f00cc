"""Heat lands on the pixels it came from: exact positions, no half-pixel shifts."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.model.drawing.overlay import (
    COLD,
    WARM,
    heatmap_on_frame,
    overlay,
    overlay_both,
)
from foldcam.runtime.system.errors import FoldcamError


def test_two_cells_pass_into_each_other_around_their_border():
    # Two cells over a frame of 8 px, their border at 4. The blur is a tent that reaches 8/3 px:
    # pixels 0 and 7 are beyond it, and what is around the border adds up to 1.
    heat = np.array([[0.0, 1.0]], np.float32)
    painted = heatmap_on_frame(heat, Affine(2, 2, 0, 0), (4, 4), (8, 2))
    np.testing.assert_array_equal(painted[0], painted[1])
    row = painted[0]
    assert row[0] == 0.0
    assert row[7] == 1.0
    np.testing.assert_allclose(row + row[::-1], 1.0, atol=1e-6)
    # Mean of (t + 8/3)^2 / (2 (8/3)^2) over t from -1 to 0: the pixel before the border.
    assert row[3] == pytest.approx(((8 / 3) ** 3 - (5 / 3) ** 3) / 3 / (2 * (8 / 3) ** 2), abs=1e-6)


def test_the_same_size_moves_nothing():
    heat = np.zeros((5, 7), np.float32)
    heat[2, 3] = 1.0
    painted = heatmap_on_frame(heat, Affine(1, 1, 0, 0), (7, 5), (7, 5))
    np.testing.assert_allclose(painted, painted[::-1, ::-1], atol=1e-6)
    assert painted.argmax() == heat.argmax()


SIZES = [(1, 1), (1, 2), (2, 2), (3, 3), (2, 3), (7, 7), (16, 9), (40, 50)]


@pytest.mark.parametrize("cells", SIZES)
@pytest.mark.parametrize("frame", [(97, 41), (30, 30), (5, 300)])
def test_the_sum_is_kept_and_no_value_leaves_the_range(cells, frame):
    heat = np.random.default_rng(0).random(cells, np.float32) ** 3
    affine = Affine(frame[0] / 64, frame[1] / 64, 0, 0)
    painted = heatmap_on_frame(heat, affine, (64, 64), frame)
    area = frame[0] * frame[1] / heat.size
    assert painted.sum(dtype=float) == pytest.approx(heat.sum(dtype=float) * area, rel=1e-5)
    assert painted.min() >= heat.min() - 1e-6
    assert painted.max() <= heat.max() + 1e-6
    constant = heatmap_on_frame(np.full(cells, 0.3, np.float32), affine, (64, 64), frame)
    np.testing.assert_allclose(constant, 0.3, atol=1e-6)


@pytest.mark.parametrize("cells", SIZES)
def test_every_cell_keeps_its_own_heat_and_its_place(cells):
    affine = Affine(130 / 64, 90 / 64, 0, 0)
    for cell in range(min(12, cells[0] * cells[1])):
        heat = np.zeros(cells, np.float32)
        heat.flat[cell] = 1.0
        painted = heatmap_on_frame(heat, affine, (64, 64), (130, 90))
        assert painted.sum(dtype=float) == pytest.approx(130 * 90 / heat.size, rel=1e-5)
        assert painted.min() == (1.0 if heat.size == 1 else 0.0)
        assert painted.max() > 0.8 if max(cells) <= 16 else painted.max() > 0.3
        row, column = np.unravel_index(painted.argmax(), painted.shape)
        at = int((row + 0.5) * cells[0] / 90), int((column + 0.5) * cells[1] / 130)
        assert at == tuple(np.unravel_index(cell, cells))


@pytest.mark.parametrize("seed", range(5))
def test_a_clearly_hottest_cell_stays_the_hottest_place(seed):
    heat = np.random.default_rng(seed).random((7, 7), np.float32) * np.float32(0.85)
    heat.flat[5 + 9 * seed] = 1.0
    painted = heatmap_on_frame(heat, Affine(2, 2, 0, 0), (70, 70), (140, 140))
    row, column = np.unravel_index(painted.argmax(), painted.shape)
    assert (row // 20, column // 20) == np.unravel_index(heat.argmax(), heat.shape)


def test_what_rises_from_cell_to_cell_rises_smoothly_from_pixel_to_pixel():
    heat = np.array([[0.0, 0.1, 0.15, 0.7, 0.72, 1.0]], np.float32)
    painted = heatmap_on_frame(heat, Affine(1, 1, 0, 0), (600, 10), (600, 10))[5].astype(float)
    steps = np.diff(painted)
    assert steps.min() > -1e-6
    # Between the first cell's centre and the last one's there is no strip of one colour, ...
    assert steps[51:549].min() > 1e-5
    # ... and the slope has no kink: bilinear interpolation jumps from 0.0005 to 0.0055 here.
    assert np.abs(np.diff(steps)).max() < 2e-4


def test_mirrored_heat_paints_mirrored():
    heat = np.random.default_rng(1).random((3, 4), np.float32)
    _, affine = Preprocessing(32, 24).resized(np.zeros((61, 83, 3), np.uint8))
    painted = heatmap_on_frame(heat, affine, (32, 24), (83, 61))
    flipped = heatmap_on_frame(heat[::-1, ::-1], affine, (32, 24), (83, 61))
    np.testing.assert_allclose(painted, flipped[::-1, ::-1], atol=1e-5)


def test_crop_is_zero_outside_and_replicated_inside():
    _, affine = Preprocessing(10, 10, "crop").resized(np.zeros((20, 40, 3), np.uint8))
    assert affine == Affine(2, 2, 10, 0)
    painted = heatmap_on_frame(np.ones((2, 2), np.float32), affine, (10, 10), (40, 20))
    expected = np.zeros((20, 40), np.float32)
    expected[:, 10:30] = 1
    np.testing.assert_allclose(painted, expected, atol=1e-6)


def test_odd_crop_covers_exactly_its_pixels():
    frame = np.zeros((23, 51, 3), np.uint8)
    recipe = Preprocessing(7, 7, "crop")
    _, affine = recipe.resized(frame)
    painted = heatmap_on_frame(np.ones((3, 3), np.float32), affine, (7, 7), (51, 23))
    columns = np.flatnonzero(painted[0])
    assert (columns[0], len(columns)) == (affine.offset_x, 23)


def test_letterbox_uses_only_the_part_over_the_frame():
    # 40 x 20 into 10 x 10: the frame lies in input rows 2..7 (padding 2 above, 3 below).
    _, affine = Preprocessing(10, 10, "letterbox").resized(np.zeros((20, 40, 3), np.uint8))
    assert affine == Affine(4, 4, 0, -8)
    heat = np.repeat(np.arange(10, dtype=np.float32)[:, None], 10, axis=1)
    painted = heatmap_on_frame(heat, affine, (10, 10), (40, 20))
    # Four frame rows have the mean of their cell, and the frame's ends pass into the padding.
    np.testing.assert_allclose(painted.reshape(5, 4, 40).mean((1, 2)), range(2, 7), atol=1e-5)
    whole = heatmap_on_frame(heat, Affine(4, 4, 0, 0), (10, 10), (40, 40))
    np.testing.assert_allclose(painted, whole[8:28], atol=1e-6)


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize(("width", "height"), [(97, 41), (41, 97), (64, 64), (5, 300)])
def test_what_the_network_saw_is_painted_back_in_place(resize, width, height):
    """A bright square goes through the preprocessing and back: it must not move."""
    frame = np.zeros((height, width, 3), np.uint8)
    x, y = width // 2, height // 2
    reach = max(2, min(width, height) // 5)
    frame[y - reach : y + reach, x - reach : x + reach] = 255
    recipe = Preprocessing(64, 64, resize, mean=(0, 0, 0), std=(1, 1, 1))
    resized, affine = recipe.resized(frame)
    heat = resized[..., 0].astype(np.float32) / 255
    painted = heatmap_on_frame(heat, affine, (64, 64), (width, height)).astype(np.float64)
    rows, columns = np.mgrid[:height, :width] + 0.5
    # Half a network pixel is the most that cropping to whole pixels can shift.
    step = 0.51 * max(affine.scale_x, affine.scale_y, 1) / 2
    assert (painted * columns).sum() / painted.sum() == pytest.approx(x, abs=step)
    assert (painted * rows).sum() / painted.sum() == pytest.approx(y, abs=step)


def test_hottest_is_where_the_painted_maximum_is(tiny_model):
    from foldcam.runtime import FoldedModel

    image = np.zeros((40, 80, 3), np.uint8)
    image[20:, 60:, 0] = 255
    image[..., 1] = 5
    result = FoldedModel.load(tiny_model)(image)
    assert result.hottest() == (60.0, 30.0)
    painted = heatmap_on_frame(result.heatmap, result.affine, result.input_wh, result.frame_wh)
    row, column = np.unravel_index(painted.argmax(), painted.shape)
    assert row >= 29
    assert column >= 59


def test_cold_keeps_the_photograph_and_hot_takes_the_colour():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    heat = np.zeros((6, 8), np.float32)
    heat[2, 3] = 1
    before = image.copy()
    blended = overlay(image, heat, opacity=1.0, colormap="turbo")
    np.testing.assert_array_equal(image, before)
    hot = blended[2, 3].astype(int)
    assert hot[0] > hot[2]  # the hot end of turbo is red: RGB, not BGR
    blended[2, 3] = image[2, 3]
    np.testing.assert_array_equal(blended, image)
    np.testing.assert_array_equal(overlay(image, heat, opacity=0.0), image)


def test_overlay_of_nan_is_the_photograph():
    image = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(overlay(image, np.full((4, 4), np.nan, np.float32)), image)


def test_overlay_refuses_nonsense():
    image, heat = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)
    with pytest.raises(FoldcamError, match="opacity"):
        overlay(image, heat, opacity=1.5)
    with pytest.raises(FoldcamError, match="colour map"):
        overlay(image, heat, colormap="plaid")
    with pytest.raises(FoldcamError, match="6 x 4"):
        overlay(image, heat.T)


def test_raising_is_warm_and_lowering_is_cold_in_one_grey_picture():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    raising, lowering = np.zeros((6, 8), np.float32), np.zeros((6, 8), np.float32)
    raising[1, 2], lowering[4, 5], raising[0, 0] = 1, 1, 0.5
    before = image.copy()
    blended = overlay_both(image, raising, lowering, opacity=1.0)
    np.testing.assert_array_equal(image, before)
    grey = np.repeat(image @ np.array([0.299, 0.587, 0.114]), 3).reshape(image.shape)
    assert tuple(blended[1, 2]) == WARM
    assert tuple(blended[4, 5]) == COLD
    np.testing.assert_allclose(blended[0, 0], (grey[0, 0] + WARM) / 2, atol=1)
    for row, column in ((1, 2), (4, 5), (0, 0)):
        blended[row, column] = grey[row, column]
    np.testing.assert_allclose(blended, grey, atol=1)
    assert WARM[0] > WARM[2]
    assert COLD[0] < COLD[2]


def test_where_both_are_hot_some_of_the_photograph_stays():
    image, hot = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.float32)
    blended = overlay_both(np.full_like(image, 200), hot, hot, opacity=0.5)
    expected = 100 + (np.asarray(WARM, np.float32) + np.asarray(COLD, np.float32)) / 4
    np.testing.assert_allclose(blended, np.tile(expected, (2, 2, 1)), atol=0.51)


def test_overlay_of_both_refuses_nonsense_and_survives_nan():
    image = np.full((4, 6, 3), 77, np.uint8)
    zero, nan = np.zeros((4, 6), np.float32), np.full((4, 6), np.nan, np.float32)
    np.testing.assert_array_equal(overlay_both(image, nan, zero), image)
    with pytest.raises(FoldcamError, match="opacity"):
        overlay_both(image, zero, zero, opacity=-1)
    with pytest.raises(FoldcamError, match="6 x 4"):
        overlay_both(image, zero, zero.T)
