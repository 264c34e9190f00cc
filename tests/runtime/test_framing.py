"""Pictures of any size as the frames of a model that makes its input by itself."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Preprocessing, framed, framed_affine, shown_smaller
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.system.errors import FoldcamError

FRAME = (320, 180)
RULES = ("stretch", "crop", "letterbox")


@pytest.mark.parametrize("rule", RULES)
def test_a_frame_of_the_right_size_is_taken_as_it_is(rule):
    image = np.random.default_rng(0).integers(0, 256, (FRAME[1], FRAME[0], 3), np.uint8)
    recipe = Preprocessing(64, 64, rule)
    taken, affine = framed(image, recipe, FRAME)
    np.testing.assert_array_equal(taken, image)
    assert affine == recipe.resized(image)[1]


@pytest.mark.parametrize("rule", ["stretch", "crop"])
@pytest.mark.parametrize("size", [(200, 150), (150, 200), (640, 360), (1000, 50), (7, 9)])
def test_a_picture_of_another_size_is_shown_as_the_recipe_alone_shows_it(rule, size):
    recipe = Preprocessing(64, 48, rule)
    y, x = np.mgrid[: size[1], : size[0]]
    image = np.stack([255 * x // size[0], 255 * y // size[1], 0 * x], axis=-1).astype(np.uint8)
    taken, affine = framed(image, recipe, FRAME)
    assert taken.shape == (FRAME[1], FRAME[0], 3)
    expected, direct = recipe.resized(image)
    assert affine == direct
    shown = recipe.resized(taken)[0].astype(int)
    # Small pictures have steps, which two resizings soften.
    assert np.abs(shown - expected).mean() < 3
    assert not shown_smaller(size, recipe, FRAME)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(12))
def test_what_is_bright_in_the_input_is_where_the_affine_map_says(rule, seed):
    generator = np.random.default_rng(seed)
    recipe = Preprocessing(*(int(side) for side in generator.integers(40, 90, 2)), rule)
    width, height = (int(side) for side in generator.integers(120, 400, 2))
    image = np.zeros((height, width, 3), np.uint8)
    x, y = width // 2 + int(generator.integers(-20, 20)), height // 2
    image[y - 8 : y + 8, x - 8 : x + 8] = 255
    taken, affine = framed(image, recipe, FRAME)
    shown = recipe.resized(taken)[0].max(axis=2).astype(float)
    shown -= np.median(shown)
    rows, columns = np.nonzero(shown > 0.6 * shown.max())
    found_x = affine.scale_x * (columns.mean() + 0.5) + affine.offset_x
    found_y = affine.scale_y * (rows.mean() + 0.5) + affine.offset_y
    assert abs(found_x - x) <= affine.scale_x + 1
    assert abs(found_y - y) <= affine.scale_y + 1


def test_only_a_letterbox_shows_other_proportions_smaller():
    recipe = Preprocessing(64, 64, "letterbox")
    assert not shown_smaller((640, 360), recipe, FRAME)
    assert not shown_smaller((640, 320), recipe, FRAME)
    assert shown_smaller((640, 480), recipe, FRAME)
    assert shown_smaller((180, 320), recipe, FRAME)
    # 320 x 180 fills 64 x 36: a square is 36 pixels high in place of 64.
    square = framed_affine((100, 100), recipe, FRAME)
    assert square.scale_x == pytest.approx(100 / 36)


def test_a_batch_holds_whole_frames_and_refuses_regions(contract_with):
    batch = Batch(contract_with(input_type="uint8", frame=FRAME), 2)
    image = np.full((FRAME[1], FRAME[0], 3), 7, np.uint8)
    batch.add(image)
    batch.add(image[:90, :90])
    assert batch.images.shape == (2, FRAME[1], FRAME[0], 3)
    assert (batch.images == 7).all()
    assert [row.frame_wh for row in batch.rows] == [FRAME, (90, 90)]
    batch.clear()
    with pytest.raises(FoldcamError, match="whole frames of 320 x 180"):
        batch.add(image, (0, 0, 10, 10))
