"""Two pictures beside each other, such as a frame and the bank's picture that it was matched to."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from foldcam.runtime.drawing.lettering import line_height
from foldcam.runtime.drawing.text import draw_labels, label_size
from foldcam.runtime.images.preprocess import Image

NARROWEST = 96
"""Pixels of either side at least, in height and width."""
GROUND = 12
"""Grey of what no picture covers."""


def side_by_side(left: Image, right: Image | None, lines: Sequence[str], width: int) -> Image:
    """Two pictures beside each other, with lines of text below the right one.

    Args:
        left: `uint8 [H, W, 3]` RGB, kept as it is.
        right: `uint8 [h, w, 3]` RGB of any size, fitted into what the text leaves of the right
            side; None leaves it empty.
        lines: of text; those that have no room are left out.
        width: of the right side in pixels.

    Returns:
        `uint8 [max(H, 96), W + gap + width, 3]` RGB.
    """
    height = max(left.shape[0], NARROWEST)
    gap = max(2, width // 40)
    canvas = np.full((height, left.shape[1] + gap + width, 3), GROUND, np.uint8)
    canvas[: left.shape[0], : left.shape[1]] = left
    side = canvas[:, left.shape[1] + gap :]
    line = line_height(label_size(side)) + 2
    lines = lines[: (height // 2) // line]
    room = height - line * len(lines)
    if right is not None:
        scale = min(width / right.shape[1], room / right.shape[0])
        size = max(1, round(right.shape[1] * scale)), max(1, round(right.shape[0] * scale))
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        fitted = np.asarray(cv2.resize(right, size, interpolation=way), np.uint8)
        across = (width - size[0]) // 2
        side[: size[1], across : across + size[0]] = fitted
        room = size[1]
    # Each above a box without a size, one below another.
    draw_labels(
        side, [(text, (0, room + at * line, 0, 0)) for at, text in enumerate(lines, start=1)]
    )
    return canvas
