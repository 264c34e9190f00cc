"""What a frame was matched to: the nearest row's own picture, with its own heat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.images.given import ImageLike
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.glyphs import line_height
from foldcam.runtime.model.drawing.maps import halves
from foldcam.runtime.model.drawing.overlay import Heat, heatmap_on_frame, overlay_in
from foldcam.runtime.model.drawing.style import MapName, Style
from foldcam.runtime.model.drawing.text import draw_labels, label_size
from foldcam.runtime.model.result import Result

_SHARE = 0.6
NARROWEST = 96
"""Pixels of either side at least, in height and width."""
GROUND = 12
"""Grey of what no picture covers."""


def row_picture(gallery: Gallery, row: int, style: Style) -> Image | None:
    """The picture of a bank row with its own heat: where *it* has the evidence.

    Args:
        row: from 0 to N - 1.
        style: how heat is drawn. A contrast belongs to two labels; of a row's own picture its
            contribution is drawn in place of it.

    Returns:
        `uint8 [H, W, 3]` RGB; None where the gallery has no picture of the row.

    Raises:
        IndexError: the bank has no such row.
        FoldcamError: the gallery cannot be read any more.
    """
    picture = gallery.picture(row)
    if picture is None:
        return None
    recipe, signed = gallery.contract.preprocessing, gallery.map(row)
    height, width = picture.shape[:2]
    # A gallery's maps are of the picture itself, also where a run takes whole frames.
    affine = recipe.fit(width, height).affine

    def painted(heat: Heat) -> Heat:
        return heatmap_on_frame(heat, affine, (recipe.width, recipe.height), (width, height))

    if style.map == "heatmap" and gallery.contract.outcome is None:
        warm, _ = halves(np.maximum(signed, 0.0))
        return overlay_in(style, picture, painted(warm), None)
    warm, cold = halves(signed)
    return overlay_in(style, picture, painted(warm), painted(cold))


def with_match(image: Image, result: Result | None, gallery: Gallery, style: Style) -> Image:
    """A drawn frame, and beside it the picture that its first region was matched to.

    Args:
        image: `uint8 [H, W, 3]` RGB, the frame with its own heat.
        result: what the model said of it; None or one without an answer has no match.

    Returns:
        A new image, whose size depends on the frame's size alone: a film keeps its size.
    """
    height, width = image.shape[:2]
    panel = max(NARROWEST, round(_SHARE * min(height, width) / 2) * 2)
    if result is None or not result.valid or not len(result.neighbors):
        return side_by_side(image, None, ["no match"], panel)
    lines = match_lines(result, gallery)
    if (result.vote or result).unknown:
        lines[0] = f"nearest: {lines[0]}"
    return side_by_side(image, row_picture(gallery, int(result.neighbors[0]), style), lines, panel)


def match_lines(result: Result, gallery: Gallery) -> list[str]:
    """What is said of a matched row: its label, the similarity to it, and its picture's name."""
    row = int(result.neighbors[0])
    label = result.labels[0] if result.labels else f"row {row}"
    lines = [label, f"similarity {result.similarities[0]:.2f}", gallery.name(row)]
    return [line for line in lines if line]


def draw_beside(
    image: ImageLike,
    result: Result,
    gallery: Gallery,
    opacity: float = 0.6,
    map: MapName = "heatmap",
) -> Image:
    """The photograph with its heat, and beside it the picture that it was matched to with its own.

    Args:
        image: the one that `result` is of, as an array, a path, or a Pillow picture.
        opacity: of the hottest places, in [0, 1].
        map: which map is drawn, see `Result.draw`.

    Returns:
        A new `uint8 [H', W', 3]` RGB: the photograph with a caption at the left, the match with
        its label, the similarity and its name at the right.
    """
    drawn = result.draw(image, opacity=opacity, map=map, caption=True)
    return with_match(drawn, result, gallery, Style(opacity, map=map))


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
