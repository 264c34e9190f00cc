"""Captions stand below the picture, in any script, and never change the size of a film."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.model.drawing import text
from foldcam.runtime.model.drawing.text import draw_caption

SIZES = [(48, 48), (112, 112), (480, 640), (640, 480), (2160, 3840), (60, 3000)]


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_stays_as_it_is_and_the_letters_are_below_it(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    drawn = draw_caption(image, "Éule 猫  0.93 " + "long " * 20)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(drawn[: size[0]], image)
    strip = drawn[size[0] :].astype(int)
    assert (strip > 200).any()
    assert (strip[:, -4:] < 60).all()
    assert (strip[:2] < 60).all()


@pytest.mark.parametrize("size", SIZES)
def test_the_strip_has_one_even_height_whatever_is_written(size):
    image = np.zeros((*size, 3), np.uint8)
    heights = {draw_caption(image, said).shape[0] for said in ("", "owl  0.9", "x " * 400, "猫")}
    (height,) = heights
    assert (height - size[0]) % 2 == 0
    assert height - size[0] <= max(42, size[0] // 8)


def test_a_picture_without_room_for_letters_stays_alone():
    image = np.zeros((3, 3, 3), np.uint8)
    np.testing.assert_array_equal(draw_caption(image, "owl"), image)


def shown(said: str, most: int, width: int = 104) -> list[str]:
    """The lines that `draw_caption` writes."""
    lines = []
    for size in range(12, 8, -1):
        lines = text._broken(said, size, width, most)
        if lines is not None:
            break
    return lines or []


def test_a_narrow_picture_has_two_lines_broken_at_a_space():
    assert shown("Black-footed Albatross  0.93", 2) == ["Black-footed", "Albatross  0.93"]


@pytest.mark.parametrize("said", ["x" * 5000 + "  0.93", "x" * 5000 + ", no evidence"])
def test_what_is_too_long_keeps_its_end(said):
    cut = text._cut(said, 60)
    assert cut.startswith("xxx")
    assert cut.endswith(("...  0.93", "..., no evidence"))
    assert len(cut) == 63


def test_a_label_of_any_length_is_measured_few_times(monkeypatch):
    calls = []
    measure = text.line_mask
    monkeypatch.setattr(text, "line_mask", lambda *a: calls.append(1) or measure(*a))
    drawn = draw_caption(np.zeros((64, 200, 3), np.uint8), "y" * 100_000)
    assert drawn.any()
    assert len(calls) <= 300
