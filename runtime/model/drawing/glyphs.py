"""A line of text in any script as a mask, made by what this machine has.

OpenCV 5 carries a font for most scripts that are written from left to right, Chinese, Japanese and
Korean among them, and needs nothing else. Pillow (extra `fonts`) with the system's fonts draws the
others, joins Arabic letters and orders what is written from right to left; with JetPack's
OpenCV 4, it draws everything but ASCII. What neither can draw is written in Latin letters where
Unicode names them (`é` as `e`), else as its code point (`U+732B`), and the log says so once.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import cache, lru_cache
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.model.drawing.system_fonts import font_for
from foldcam.runtime.system.logs import log
from foldcam.runtime.system.text import printable

Mask = npt.NDArray[np.uint8]
_ASCENT, _LINE = 1.1, 1.45  # of the size: from a line's top to its letters' foot, and to its bottom
_HERSHEY = cv2.FONT_HERSHEY_SIMPLEX
_HERSHEY_SIZE = 30.0  # pixels of a line's size at scale 1
_MISSING = "\ue000"  # no font has a letter for it
_lock = threading.Lock()  # OpenCV's font keeps what it has drawn, and may be asked by one thread


def line_height(size: int) -> int:
    """Pixels of a line of text."""
    return round(_LINE * size)


@lru_cache(maxsize=512)
def line_mask(text: str, size: int) -> Mask:
    """One line of text.

    Returns:
        `uint8 [line_height(size), width]`, 255 where letters are; read-only.
    """
    mask = _drawn(printable(text), size)
    columns = np.flatnonzero(mask.any(axis=0))
    mask = mask[:, : columns[-1] + 1 if columns.size else 0]
    mask.flags.writeable = False
    return mask


def _drawn(text: str, size: int) -> Mask:
    text = unicodedata.normalize("NFC", text)
    if not _needs_shaping(text):
        drawn = _by_opencv_5(text, size)
        if drawn is not None:
            return drawn
    if text.isascii():
        return _by_hershey(text, size)
    font = font_for(_other_letters(text))
    if font is None:
        return _drawn(_replaced(text), size)
    if font.has(text):
        return font.mask(text, size, line_height(size), round(_ASCENT * size))
    # A font of one script may lack digits: what stands before and after its letters is drawn apart.
    before, middle, after = re.findall(r"^([ -~]*)(.*[^ -~])([ -~]*)$", text)[0]
    if not font.has(middle):
        return _drawn(_replaced(text), size)
    shaped = font.mask(middle, size, line_height(size), round(_ASCENT * size))
    return np.hstack([_drawn(before, size), shaped, _drawn(after, size)])


def _needs_shaping(text: str) -> bool:
    """Whether letters join, stack or run from right to left, which OpenCV's font does not do."""
    return any(
        unicodedata.bidirectional(letter) in ("R", "AL", "AN")
        or unicodedata.category(letter) in ("Mn", "Mc")
        for letter in text
    )


def _other_letters(text: str) -> str:
    """Each letter once that is not ASCII: texts of one label and many numbers share a font."""
    return "".join(sorted({letter for letter in text if not letter.isascii()}))


def _replaced(text: str) -> str:
    """The text in ASCII and what OpenCV's font has."""
    letters = []
    for letter in text:
        if letter.isascii() or (not _needs_shaping(letter) and _opencv_5_has(letter)):
            letters.append(letter)
            continue
        parts = unicodedata.normalize("NFKD", letter)
        plain = "".join(part for part in parts if not unicodedata.combining(part))
        letters.append(plain if plain and plain.isascii() else f"U+{ord(letter):04X} ")
        _say(letter, letters[-1].strip())
    return "".join(letters).strip()


@lru_cache(maxsize=512)
def _say(letter: str, written: str) -> None:
    log.warning(
        "the letter %r is written as %s in pictures, for want of a font: install "
        "'foldcam[fonts]' and a font that has it (Chinese, Japanese and Korean: fonts-noto-cjk)",
        letter,
        written,
    )


@cache
def _opencv_font() -> Any:
    """OpenCV 5's own font; None for OpenCV 4, and where it was built without."""
    face = getattr(cv2, "FontFace", None)
    if face is None:
        return None
    try:
        return face("uni")
    except cv2.error:
        return None


def _by_opencv_5(text: str, size: int) -> Mask | None:
    """None where the font is not there or lacks a letter."""
    if _opencv_font() is None or not all(map(_opencv_5_has, set(text))):
        return None
    return _written(text, size)


@lru_cache(maxsize=4096)
def _opencv_5_has(letter: str) -> bool:
    if letter.isascii() or _opencv_font() is None:
        return letter.isascii()
    # It draws a sign of its own for what it does not have.
    return not np.array_equal(_written(letter, 16), _written(_MISSING, 16))


def _written(text: str, size: int) -> Mask:
    mask = np.zeros((line_height(size), 2 * size * (len(text) + 1)), np.uint8)
    foot = (1, round(_ASCENT * size))
    with _lock:
        # Types of OpenCV's wheels do not know this signature.
        cast(Any, cv2).putText(mask, text, foot, 255, _opencv_font(), size)
    return mask


def _by_hershey(text: str, size: int) -> Mask:
    scale = size / _HERSHEY_SIZE
    stroke = max(1, round(1.6 * scale))
    width = cv2.getTextSize(text, _HERSHEY, scale, stroke)[0][0]
    mask = np.zeros((line_height(size), width + 4), np.uint8)
    foot = (1, round(_ASCENT * size))
    cv2.putText(mask, text, foot, _HERSHEY, scale, 255, stroke, cv2.LINE_AA)
    return mask
