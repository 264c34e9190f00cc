"""Labels in any script: drawn where a font has them, and never as question marks."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.model.drawing import glyphs
from foldcam.runtime.model.drawing.glyphs import line_height, line_mask

# Matplotlib carries DejaVu Sans, which has Arabic and Hebrew, and no Chinese.
matplotlib = pytest.importorskip("matplotlib")
DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
with_opencv_5 = pytest.mark.skipif(
    not hasattr(cv2, "FontFace"), reason="OpenCV 4 has no font but ASCII"
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Fonts are looked for once per process, and texts drawn once."""
    caches = (line_mask, glyphs._say, glyphs.font_for, glyphs._files)
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def fonts(monkeypatch):
    """`fonts(path)`: the only font files of this machine, without fontconfig."""

    def have(*paths: Path) -> None:
        monkeypatch.setattr(shutil, "which", lambda program: None)
        monkeypatch.setattr(glyphs, "_files", lambda: tuple(map(str, paths)))

    return have


@pytest.fixture
def opencv_4(monkeypatch):
    monkeypatch.setattr(glyphs, "_opencv_font", lambda: None)
    glyphs._opencv_5_has.cache_clear()
    yield
    glyphs._opencv_5_has.cache_clear()


@pytest.fixture
def said(caplog):
    from foldcam.runtime.system.logs import log

    log.propagate = True
    yield lambda: [record.getMessage() for record in caplog.records]
    log.propagate = False


@pytest.mark.parametrize("size", [9, 12, 24, 80])
def test_a_line_has_its_height_and_letters_that_grow(size):
    mask = line_mask("Ag 0.93", size)
    assert mask.shape[0] == line_height(size)
    rows = np.flatnonzero(mask.any(axis=1))
    assert 0.7 * size <= rows[-1] - rows[0] + 1 <= 1.3 * size
    assert mask[:, -1].any()
    assert not mask.flags.writeable


@with_opencv_5
@pytest.mark.parametrize("label", ["Eisvögel", "ωκεανός", "カワセミ", "물총새", "зимородок"])
def test_scripts_from_left_to_right_need_no_font_of_the_system(label, fonts, said):
    fonts()
    drawn, plain = line_mask(label, 24), line_mask("?" * len(label), 24)
    assert drawn.any()
    assert drawn.shape != plain.shape or (drawn != plain).any()
    assert said() == []


def test_an_umlaut_has_its_dots(fonts):
    fonts(DEJAVU)
    with_dots, without = line_mask("ü", 40), line_mask("u", 40)
    assert np.flatnonzero(with_dots.any(1))[0] < np.flatnonzero(without.any(1))[0] - 3


@pytest.mark.parametrize("label", ["Eisvögel", "ωκεανός", "العربية", "עברית"])
def test_with_opencv_4_a_font_of_the_system_draws_what_is_not_ascii(label, fonts, opencv_4, said):
    fonts(DEJAVU)
    drawn = line_mask(f"{label}  0.93", 24)
    expected = glyphs.ShapedFont(str(DEJAVU), 0).mask(f"{label}  0.93", 24, 35, 26)
    np.testing.assert_array_equal(drawn, expected[:, : drawn.shape[1]])
    assert said() == []


def test_letters_that_no_font_has_are_named_and_said_once(fonts, opencv_4, said):
    fonts(DEJAVU)
    for number in range(3):
        drawn = line_mask(f"猫  0.9{number}", 24)
        np.testing.assert_array_equal(drawn, line_mask(f"U+732B   0.9{number}", 24))
    (message,) = said()
    assert "'猫' is written as U+732B in pictures" in message
    assert "foldcam[fonts]" in message


def test_without_any_font_accents_are_dropped_and_the_rest_is_named(fonts, opencv_4, said):
    fonts()
    np.testing.assert_array_equal(line_mask("Éule", 24), line_mask("Eule", 24))
    np.testing.assert_array_equal(line_mask("Ж", 24), line_mask("U+0416", 24))
    assert len(said()) == 2


def test_fonts_are_looked_for_once_per_label_and_not_once_per_number(fonts, opencv_4, monkeypatch):
    fonts(DEJAVU)
    asked = []
    candidates = glyphs._candidates
    monkeypatch.setattr(glyphs, "_candidates", lambda t: asked.append(t) or candidates(t))
    for number in range(20):
        line_mask(f"Eisvögel  0.{number}", 24)
    assert len(asked) == 1


def test_a_font_without_digits_draws_its_own_letters_alone(fonts, opencv_4, monkeypatch):
    fonts(DEJAVU)
    has = glyphs.ShapedFont.has
    monkeypatch.setattr(
        glyphs.ShapedFont,
        "has",
        lambda self, text: not any(letter.isdigit() for letter in text) and has(self, text),
    )
    drawn = line_mask("עברית  0.93", 24)
    number = glyphs._by_hershey("  0.93", 24)
    columns = np.flatnonzero(number.any(0))
    right = number[:, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(drawn[:, -right.shape[1] :], right)
    assert drawn.shape[1] > right.shape[1] + 20


def test_what_would_end_a_line_or_turn_it_around_is_written_out(fonts):
    fonts()
    np.testing.assert_array_equal(line_mask("a\nb‮c", 24), line_mask("a\\nb\\u202ec", 24))


def test_a_damaged_font_file_is_passed_over(fonts, opencv_4, tmp_path):
    broken = tmp_path / "broken-sans.ttf"
    broken.write_bytes(b"no font")
    fonts(broken, DEJAVU)
    assert glyphs.font_for("é") is not None
