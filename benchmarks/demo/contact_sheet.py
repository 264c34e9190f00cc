"""One picture of many results: each photograph beside its heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foldcam.runtime.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.drawing.text import draw_caption
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model import Result

_TILE = 220
_GAP = 6
_PAIRS_PER_ROW = 4
_BOX_COLOR = (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """One result to show.

    Attributes:
        image: `uint8 [H, W, 3]` RGB.
        result: what the folded model says of it.
        box: `(x0, y0, x1, y1)` in pixels, drawn as the place where heat should be.
        caption: written under the heatmap.
        share: of the heat in the box, written under the photograph.
    """

    image: Image
    result: Result
    box: tuple[int, int, int, int] | None
    caption: str
    share: float | None


def contact_sheet(pictures: Sequence[Picture]) -> Image:
    """Tiles of photograph and heatmap, four pairs a row, `uint8 [H, W, 3]` RGB."""
    pairs = [_pair(picture) for picture in pictures]
    height, width = pairs[0].shape[:2]
    rows = -(-len(pairs) // _PAIRS_PER_ROW)
    columns = min(len(pairs), _PAIRS_PER_ROW)
    sheet = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 24, np.uint8
    )
    for number, pair in enumerate(pairs):
        row, column = divmod(number, _PAIRS_PER_ROW)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = pair
    return sheet


def _pair(picture: Picture) -> Image:
    result = picture.result
    heat = heatmap_on_frame(result.heatmap, result.affine, result.input_wh, result.frame_wh)
    shown = overlay(picture.image, heat)
    if picture.box is not None:
        x0, y0, x1, y1 = picture.box
        thickness = max(2, min(picture.image.shape[:2]) // 120)
        cv2.rectangle(shown, (x0, y0), (x1 - 1, y1 - 1), _BOX_COLOR, thickness)
    share = "not in the picture" if picture.share is None else f"{picture.share:.0%} of heat in box"
    left = draw_caption(_tile(picture.image), share)
    right = draw_caption(_tile(shown), picture.caption)
    return np.hstack([left, right])


def _tile(image: Image) -> Image:
    return np.asarray(cv2.resize(image, (_TILE, _TILE), interpolation=cv2.INTER_AREA), np.uint8)
