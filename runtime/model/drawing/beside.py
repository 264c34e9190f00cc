"""Two pictures beside each other, such as a frame and the bank's picture that it was matched to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.glyphs import line_height
from foldcam.runtime.model.drawing.text import draw_labels, label_size

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
        shown = fitted(right, width, room, enlarge=True)
        room = shown.shape[0]
        across = (width - shown.shape[1]) // 2
        side[:room, across : across + shown.shape[1]] = shown
    # Each above a box without a size, one below another.
    draw_labels(
        side, [(text, (0, room + at * line, 0, 0)) for at, text in enumerate(lines, start=1)]
    )
    return canvas
