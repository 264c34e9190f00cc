"""One picture of many results: each photograph beside its heatmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foldcam.benchmarks.evaluation.figure import captioned
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.model.folded_model import FoldedModel, Result

_TILE = 220
_GAP = 6
_PAIRS_PER_ROW = 4
_HEIGHT = 260
_BACKGROUND = 24
_BOX_COLOR = (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """One result to show."""

    image: Image  # `uint8 [H, W, 3]` RGB
    result: Result  # what the folded model says of it
    # `(x0, y0, x1, y1)` in pixels, drawn as the place where heat should be
    box: tuple[int, int, int, int] | None
    caption: str  # written under the heatmap
    share: float | None  # of the heat in the box, written under the photograph


def contact_sheet(pictures: Sequence[Picture]) -> Image:
    """Tiles of photograph and heatmap, four pairs a row, `uint8 [H, W, 3]` RGB."""
    pairs = [_pair(picture) for picture in pictures]
    height, width = pairs[0].shape[:2]
    rows = -(-len(pairs) // _PAIRS_PER_ROW)
    columns = min(len(pairs), _PAIRS_PER_ROW)
    sheet = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), _BACKGROUND, np.uint8
    )
    for number, pair in enumerate(pairs):
        row, column = divmod(number, _PAIRS_PER_ROW)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = pair
    return sheet


def photograph_sheet(model: FoldedModel, images: Mapping[str, Image]) -> Image:
    """Whole photographs beside their heatmaps, two pairs a row, `uint8 [H, W, 3]` RGB."""
    pairs = []
    for name, image in images.items():
        width = round(image.shape[1] * _HEIGHT / image.shape[0])
        size = (width, _HEIGHT)
        shown = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        drawn = model(shown).draw(shown, caption=True)
        gap = np.full((len(drawn), 2, 3), _BACKGROUND, np.uint8)
        pairs.append(np.hstack([draw_caption(shown, name), gap, drawn]))
    rows = []
    for start in range(0, len(pairs), 2):
        rows.append(np.hstack(_spaced(pairs[start : start + 2], axis=1)))
    widest = max(row.shape[1] for row in rows)
    return np.vstack(_spaced([_widened(row, widest) for row in rows], axis=0))


def _spaced(parts: Sequence[Image], axis: int) -> list[Image]:
    shape = list(parts[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _BACKGROUND, np.uint8)
    return [piece for part in parts for piece in (gap, part)][1:]


def _widened(row: Image, width: int) -> Image:
    scaled = cv2.resize(row, (width, round(len(row) * width / row.shape[1])))
    return np.asarray(scaled, np.uint8)


def _pair(picture: Picture) -> Image:
    result = picture.result
    heat = heatmap_on_frame(result.heatmap, result.affine, result.input_wh, result.frame_wh)
    shown = overlay(picture.image, heat)
    if picture.box is not None:
        x0, y0, x1, y1 = picture.box
        thickness = max(2, min(picture.image.shape[:2]) // 120)
        cv2.rectangle(shown, (x0, y0), (x1 - 1, y1 - 1), _BOX_COLOR, thickness)
    share = "not in the picture" if picture.share is None else f"{picture.share:.0%} of heat in box"
    left = captioned(picture.image, _TILE, share)
    right = captioned(shown, _TILE, picture.caption)
    return np.hstack([left, right])
