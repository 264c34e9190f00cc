"""Text in pictures, which covers as little of them as possible."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.glyphs import Mask, line_height, line_mask

_Box = tuple[int, int, int, int]
_SMALLEST = 48  # pixels a side; no label could be read below a smaller picture
_MARGIN = 4
_STRIP = 24
_NUMBER, _TAIL = 6, 20  # letters that stay at the end of a text that is shortened
_NARROW = 18  # letters' sizes; a narrower picture has two lines of caption


def draw_caption(image: Image, text: str) -> Image:
    """Write one line below the picture, on a strip that is added to it.

    The strip has the same height for all pictures of a size, whatever is written, so that the
    frames of a video do; the height is even. A narrow picture has two lines. What is too long is
    made smaller, then shortened.

    Args:
        image: `uint8 [H, W, 3]` RGB, left as it is; below 48 pixels a side it is all there is.
        text: one line, in any script, see `runtime.model.drawing.glyphs`.

    Returns:
        A new `uint8 [H + strip, W, 3]` RGB.
    """
    height, width = image.shape[:2]
    if min(height, width) < _SMALLEST:
        return np.array(image)
    size = max(12, round(min(height, width) / 26))
    most = 1 if width >= _NARROW * size else 2
    each = line_height(size)
    tall = most * each + 4
    drawn = np.full((height + tall + tall % 2, width, 3), _STRIP, np.uint8)
    drawn[:height] = image
    for number, line in enumerate(_lines(text, size, width - 2 * _MARGIN, most)):
        _write(drawn, line, _MARGIN, height + 2 + number * each + (each - line.shape[0]) // 2)
    return drawn


def draw_labels(image: Image, labels: Sequence[tuple[str, _Box]]) -> None:
    """Write each text on a dark plate at its box: above, below or beside it, if there is room.

    Of these places, and one inside of the box at its edge, each text has the one that covers the
    least of all boxes and of the texts before it.

    Args:
        image: `uint8 [H, W, 3]` RGB, drawn into.
        labels: texts of one line, made smaller, then shortened, where they would leave the image;
            each with its box `(x, y, width, height)` in pixels, which may lie partly outside.
    """
    height, width = image.shape[:2]
    if min(height, width) < _SMALLEST:
        return
    size = label_size(image)
    taken = [box for _, box in labels]
    for text, box in labels:
        if not text:
            continue
        line = _lines(text, size, width - 2 * _MARGIN, 1)[0]
        plate_wh = line.shape[1] + 2 * _MARGIN, line.shape[0]
        places = [(*corner, *plate_wh) for corner in _corners(box, plate_wh, (width, height))]
        place = min(places, key=lambda each: sum(_common(each, other) for other in taken))
        taken.append(place)
        left, top, wide, tall = place
        plate = image[top : top + tall, left : left + wide]
        plate[:] = plate // 4
        _write(image, line, left + _MARGIN, top)


def label_size(image: Image) -> int:
    """The size of the letters of `draw_labels`, in pixels, by the size of the picture."""
    short: int = min(image.shape[:2])
    return max(12, round(short / 36))


def _corners(
    box: _Box, plate_wh: tuple[int, int], image_wh: tuple[int, int]
) -> list[tuple[int, int]]:
    """Upper left corners of a plate, the best first, all within the image."""
    (x, y, wide, tall), (width, height) = box, plate_wh
    wished = [
        (x, y - height),  # above
        (x, y + tall),  # below
        (x + wide, y),  # beside
        (x - width, y),
        (x, y),  # within
        (x, y + tall - height),
    ]
    right, bottom = max(0, image_wh[0] - width), max(0, image_wh[1] - height)
    return [(max(0, min(left, right)), max(0, min(top, bottom))) for left, top in wished]


def _common(one: _Box, other: _Box) -> int:
    """Pixels that lie in both boxes."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0, across) * max(0, down)


def _write(image: Image, line: Mask, left: int, top: int) -> None:
    """White letters, as far as they lie within the image."""
    place = image[top : top + line.shape[0], left : left + line.shape[1]]
    shown = line[: place.shape[0], : place.shape[1], None].astype(np.uint16)
    place[:] = (place * (255 - shown) + 255 * shown) // 255


@lru_cache(maxsize=256)
def _lines(text: str, size: int, width: int, most: int) -> list[Mask]:
    """Lines of a text that are not wider than `width` pixels, in letters as large as possible."""
    # No letter is narrower than an eighth of its size; to measure a long label takes seconds.
    text = _cut(text, max(8, 8 * most * width // size))
    smallest = max(9, round(0.6 * size))
    for smaller in range(size, min(smallest, size) - 1, -1):
        lines = _broken(text, smaller, width, most)
        if lines is not None:
            return [line_mask(line, smaller) for line in lines]
    fewest = bisect_left(
        range(len(text)), True, key=lambda n: _broken(_cut(text, n), smallest, width, most) is None
    )
    lines = _broken(_cut(text, fewest - 1), smallest, width, most)
    return [line_mask(line, smallest) for line in lines or [""]]


def _cut(text: str, length: int) -> str:
    """The text without its middle: mostly it ends in a number, or in `, no evidence`."""
    if len(text) <= length:
        return text
    said = text.rfind(", ")
    tail = text[said:] if said > len(text) - _TAIL else text[-_NUMBER:]
    return f"{text[: max(0, length - len(tail))]}...{tail}"


def _broken(text: str, size: int, width: int, most: int) -> list[str] | None:
    """The text in lines that fit, broken at spaces where that is possible; None if too long."""
    lines = []
    for _ in range(most):
        fitting = bisect_right(
            range(len(text) + 1), width, key=lambda n: line_mask(text[:n], size).shape[1]
        )
        end = fitting - 1
        space = text.rfind(" ", 0, end)
        if end < len(text) and space > end // 2:
            end = space
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
        if not text:
            return lines
    return None
