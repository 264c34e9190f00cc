"""Resize rules, normalisation and the affine map, with values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine, Preprocessing


@pytest.mark.parametrize(
    ("rule", "frame_wh", "affine"),
    [
        ("stretch", (100, 50), Affine(10, 5, 0, 0)),
        ("crop", (100, 50), Affine(5, 5, 25, 0)),
        ("crop", (50, 100), Affine(5, 5, 0, 25)),
        ("crop", (101, 50), Affine(5, 5, 25, 0)),
        ("letterbox", (100, 50), Affine(10, 10, 0, -20)),
        ("letterbox", (50, 100), Affine(10, 10, -20, 0)),
        ("stretch", (1, 1), Affine(0.1, 0.1, 0, 0)),
    ],
)
def test_affine_is_exact(rule, frame_wh, affine):
    frame = np.zeros((frame_wh[1], frame_wh[0], 3), np.uint8)
    resized, found = Preprocessing(10, 10, rule).resized(frame)
    assert resized.shape == (10, 10, 3)
    assert found == pytest.approx(affine)


@pytest.mark.parametrize("rule", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3), (224, 224)])
def test_any_frame_fits(rule, size):
    resized, _ = Preprocessing(12, 9, rule).resized(np.zeros((*size, 3), np.uint8))
    assert resized.shape == (9, 12, 3)


def test_same_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for rule in ("stretch", "crop", "letterbox"):
        np.testing.assert_array_equal(Preprocessing(12, 9, rule).resized(image)[0], image)


def test_shrinking_averages_areas():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, ::2] = 100
    resized, _ = Preprocessing(2, 1).resized(image)
    np.testing.assert_array_equal(resized, np.full((1, 2, 3), 50))


def test_letterbox_pads_with_the_mean_colour():
    image = np.full((10, 20, 3), 255, np.uint8)
    for color, expected in (("rgb", [51, 102, 153]), ("bgr", [153, 102, 51])):
        recipe = Preprocessing(20, 20, "letterbox", color, mean=(0.2, 0.4, 0.6))
        resized, _ = recipe.resized(image)
        assert resized[0, 0].tolist() == expected
        # Padding is neutral after normalisation, whatever the colour order.
        np.testing.assert_allclose(recipe.normalized(resized)[:, 0, 0], 0, atol=1e-6)


def test_normalisation_is_exact():
    recipe = Preprocessing(1, 1, color="rgb", mean=(0.5, 0.25, 0), std=(0.5, 0.25, 2))
    pixel = np.array([[[255, 0, 51]]], np.uint8)
    np.testing.assert_allclose(recipe.normalized(pixel)[:, 0, 0], [1, -1, 0.1], atol=1e-6)


def test_bgr_reverses_channels_and_batches_agree():
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    rgb, bgr = (
        Preprocessing(5, 4, mean=(0, 0, 0), std=(1, 1, 1)),
        Preprocessing(5, 4, color="bgr", mean=(0, 0, 0), std=(1, 1, 1)),
    )
    assert rgb.normalized(image).shape == (3, 3, 4, 5)
    np.testing.assert_array_equal(rgb.normalized(image)[:, ::-1], bgr.normalized(image))
    np.testing.assert_array_equal(rgb.normalized(image)[1], rgb.normalized(image[1]))
