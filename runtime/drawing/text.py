"""Text in pictures, readable on any background. OpenCV's fonts are ASCII."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.text import shorten

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_caption(image: Image, text: str) -> Image:
    """Write one line along the bottom, readable on any background.

    White letters with a black outline on a darkened band; a line that is too long is
    made smaller, then shortened. OpenCV's fonts are ASCII: accents are dropped, other
    letters become `?`.

    Args:
        image: `uint8 [H, W, 3]` RGB, left as it is.
        text: one line.

    Returns:
        A new `uint8 [H, W, 3]` RGB.
    """
    drawn: Image = image.copy()
    text = _ascii(text)
    height, width = image.shape[:2]
    if not text or height < 16 or width < 16:
        return drawn
    text, scale = _fitted(text, max(0.35, min(width, height) / 640.0), width - 8)
    (_, letters), below = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    band = min(height, letters + below + 8)
    drawn[height - band :] = drawn[height - band :] // 3
    _write(drawn, text, scale, 4, height - below - 4)
    return drawn


def draw_label(image: Image, text: str, box: tuple[int, int, int, int]) -> None:
    """Write one line on a dark plate above a box, or inside of it where there is no room above.

    Args:
        image: `uint8 [H, W, 3]` RGB, drawn into.
        text: one line; made smaller, then shortened, where it would leave the image.
        box: `(x, y, width, height)` in pixels; may lie partly outside.
    """
    text = _ascii(text)
    height, width = image.shape[:2]
    if not text or height < 16 or width < 16:
        return
    x, y, _, tall = box
    text, scale = _fitted(text, max(0.35, min(width, height) / 900.0), width - 8)
    (wide, letters), below = cv2.getTextSize(text, _FONT, scale, _stroke(scale))
    plate_height, plate_width = letters + below + 6, wide + 8
    left = max(0, min(x, width - plate_width))
    top = y - plate_height if y >= plate_height else min(y, y + tall)
    top = max(0, min(top, height - plate_height))
    plate = image[top : top + plate_height, left : left + plate_width]
    plate[:] = plate // 4
    _write(image, text, scale, left + 4, top + letters + 3)


def _write(image: Image, text: str, scale: float, left: int, baseline: int) -> None:
    """White letters with a black outline; only the strip that they touch is worked on."""
    stroke = _stroke(scale)
    (_, letters), below = cv2.getTextSize(text, _FONT, scale, stroke)
    top = max(0, baseline - letters - 4)
    strip = image[top : baseline + below + 4]
    # The outline is the letters' own, grown: OpenCV 5 has another font for thicker strokes,
    # whose letters are wider, and a text drawn in both falls apart.
    white = np.zeros(strip.shape[:2], np.uint8)
    cv2.putText(white, text, (left, baseline - top), _FONT, scale, 255, stroke, cv2.LINE_AA)
    black = cv2.dilate(white, np.ones((3, 3), np.uint8))
    strip[:] = cv2.add(cv2.subtract(strip, cv2.merge([black] * 3)), cv2.merge([white] * 3))


def _stroke(scale: float) -> int:
    return max(1, round(2 * scale))


def _fitted(text: str, scale: float, width: int) -> tuple[str, float]:
    # No letter is narrower than a pixel; measuring a long label bit by bit takes seconds.
    text = shorten(text, max(width, 8))
    smallest = min(scale, max(0.35, scale * 0.6))
    while scale > smallest and _text_width(text, scale) > width:
        scale = max(smallest, scale * 0.9)
    while len(text) > 4 and _text_width(text, scale) > width:
        text = text[:-4].rstrip() + "..."
    return text, scale


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(text, _FONT, scale, _stroke(scale))[0][0]


def _ascii(text: str) -> str:
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text)
        if not unicodedata.combining(letter)
    )
    return "".join(letter if " " <= letter <= "~" else "?" for letter in plain)
