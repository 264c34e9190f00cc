"""Results that draw themselves, images in every form that callers have, and short reprs."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from foldcam.runtime import FoldcamError, FoldedModel, draw_result, read_image
from foldcam.runtime.images.given import as_image

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def model(tiny_model):
    with FoldedModel.load(tiny_model, provider="cpu") as opened:
        yield opened


@pytest.fixture
def picture(tmp_path):
    """A photograph of 80 x 60, red at its upper left."""
    image = np.full((60, 80, 3), 20, np.uint8)
    image[:30, :40, 0] = 220
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def same(one, other) -> bool:
    return np.array_equal(one.embedding, other.embedding) and one.frame_wh == other.frame_wh


def test_a_path_an_array_and_a_pillow_picture_give_the_same(model, picture):
    expected = model(read_image(picture))
    given = [picture, str(picture), PIL.open(picture)]
    for image in given:
        assert same(model(image), expected)
    assert all(same(result, expected) for result in model.run_batch(given))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_and_its_pillow_picture_have_the_same_rotation(tmp_path, picture, orientation):
    path = tmp_path / "turned.jpg"
    exif = PIL.Exif()
    exif[0x0112] = orientation
    PIL.open(picture).save(path, quality=95, exif=exif)
    read, opened = read_image(path), as_image(PIL.open(path))
    assert read.shape == opened.shape
    assert abs(read.astype(int) - opened).max() <= 3  # two decoders of JPEG


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_mode_of_pillow_becomes_rgb(mode):
    if mode == "I;16":
        picture = PIL.fromarray(np.full((4, 5), 0x80FF, np.uint16))
    else:
        picture = PIL.new("RGB", (5, 4), (128, 128, 128)).convert(mode)
    image = as_image(picture)
    assert image.shape == (4, 5, 3)
    assert image.dtype == np.uint8
    if mode in ("L", "LA", "RGBA", "I;16"):
        assert (image == 128).all()


def test_what_is_no_image_is_refused_in_one_sentence(model, picture, tmp_path):
    with pytest.raises(FoldcamError, match="does not exist"):
        model(tmp_path / "none.png")
    with pytest.raises(FoldcamError, match=r"run_batch takes a list of images: give \["):
        model.run_batch(str(picture))
    with pytest.raises(FoldcamError, match="mode 'F'"):
        model(PIL.new("F", (8, 8)))
    with pytest.raises(FoldcamError, match="uint8"):
        model(np.zeros((8, 8, 3), np.float32))


def test_heat_on_the_frame_keeps_the_sum_and_the_place(model, picture):
    result = model(picture)
    heat = result.heat_on_frame()
    assert heat.shape == (60, 80)
    assert heat.dtype == np.float32
    assert heat.min() >= 0.0
    assert heat.max() <= 1.0
    cells = 80 * 60 / result.heatmap.size
    assert heat.sum(dtype=float) == pytest.approx(result.heatmap.sum(dtype=float) * cells, rel=1e-5)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert (row < 30, column < 40) == (True, True)


def test_heat_of_a_region_lies_within_it(model, picture):
    result = model(picture)
    boxed = dataclasses.replace(
        result, box=(20, 10, 40, 30), affine=result.affine._replace(
            scale_x=5.0, scale_y=3.75, offset_x=20.0, offset_y=10.0
        )
    )  # fmt: skip
    heat = boxed.heat_on_frame()
    assert heat[10:40, 20:60].any()
    heat[10:40, 20:60] = 0
    assert not heat.any()


def test_a_drawn_result_has_the_size_of_its_image_and_a_caption_adds_a_strip(model, picture):
    result, image = model(picture), read_image(picture)
    drawn = result.draw(image)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any()
    np.testing.assert_array_equal(result.draw(str(picture)), drawn)
    np.testing.assert_array_equal(result.draw(PIL.open(picture)), drawn)
    captioned = result.draw(image, caption=True)
    assert captioned.shape[0] > 60
    np.testing.assert_array_equal(captioned[:60], drawn)
    np.testing.assert_array_equal(draw_result(image, result), captioned)


def test_every_option_changes_the_picture(model, picture):
    result = model(picture)
    plain = result.draw(picture)
    for option in (
        {"opacity": 0.2}, {"colormap": "viridis"}, {"threshold": 0.5}, {"mark": "contour"},
        {"mark": "box"},
    ):  # fmt: skip
        assert (result.draw(picture, **option) != plain).any(), option
    boxed = dataclasses.replace(result, box=(10, 10, 50, 30))
    assert (boxed.draw(picture) != boxed.draw(picture, boxes=False)).any()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"mark": "star"}, "mark is 'star': use one of none, contour, box"),
        ({"colormap": "plaid"}, "colormap is 'plaid': use one of turbo"),
        ({"map": "saliency"}, "map is 'saliency': use one of heatmap"),
        ({"map": "contrast"}, "no map 'contrast'"),
        ({"opacity": 2.0}, "opacity is 2.0: give a number from 0 to 1"),
        ({"threshold": -1.0}, "threshold is -1.0"),
    ],
)
def test_an_option_that_is_wrong_is_said(model, picture, option, said):
    with pytest.raises(FoldcamError, match=said):
        model(picture).draw(picture, **option)


def test_an_image_of_another_size_is_refused(model, picture):
    with pytest.raises(FoldcamError, match="The image is 5 x 4, and this is the result of one of"):
        model(picture).draw(np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(FoldcamError, match="map is 'saliency'"):
        model(picture).heat_on_frame("saliency")


def test_reprs_are_one_short_line(model, picture):
    result = model(picture)
    red, blue = result.similarities
    expected = f"<Result red {red:.2f}, blue {blue:.2f}: map 2 x 2 of an image 80 x 60>"
    assert repr(result) == expected
    unanswered = dataclasses.replace(
        result, labels=[], similarities=result.similarities[:0], error="the network returned NaN"
    )
    assert repr(unanswered).startswith("<Result no answer: map")
    assert repr(dataclasses.replace(result, unknown=True)).startswith("<Result unknown, red 0.9")
    estimated = dataclasses.replace(result, labels=[], estimate=1234.0)
    assert repr(estimated).startswith("<Result 1,234: map")
    for shown in (result, model, model.contract):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 160
    assert repr(model.contract).startswith("<Contract of ")
    assert "onnxruntime" in repr(model)
    assert str(model.contract.bank.rows) in repr(model)


def test_no_similarity_leaves_the_range_of_a_cosine(model, monkeypatch):
    forward = model._backend.run

    def rounded(images):
        outputs = dict(forward(images))
        outputs["similarity"] = outputs["similarity"] * 0 + np.float32(1.0000002)
        return outputs

    monkeypatch.setattr(model._backend, "run", rounded)
    result = model(np.full((8, 8, 3), 90, np.uint8))
    assert result.similarities.max() == 1.0
