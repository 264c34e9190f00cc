"""A photograph with its results drawn into it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.maps import painted_maps
from foldcam.runtime.model.drawing.overlay import Heat, overlay_in, veil
from foldcam.runtime.model.drawing.shown import Shown
from foldcam.runtime.model.drawing.style import MapName, Style
from foldcam.runtime.model.drawing.text import draw_caption, draw_labels

_LEVEL = 0.5
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)
Mask = npt.NDArray[np.uint8]


def hottest_region(heat: Heat, level: float = _LEVEL) -> Mask | None:
    """The connected place around the maximum that is hotter than a share of it.

    Args:
        heat: `float32 [H, W]`; what is not finite counts as cold.
        level: the share, in (0, 1].

    Returns:
        `uint8 [H, W]`, 1 within the region and 0 elsewhere; None if nothing is hot.
    """
    if heat.size == 0:
        return None
    clean = np.nan_to_num(heat, nan=0.0, posinf=0.0, neginf=0.0)
    row, column = np.unravel_index(int(clean.argmax()), clean.shape)
    hottest = float(clean[row, column])
    if hottest <= 0.0:
        return None
    _, numbers = cv2.connectedComponents((clean >= level * hottest).astype(np.uint8))
    return np.asarray(numbers == numbers[row, column], np.uint8)


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest `(x, y, width, height)` that holds all of a region, which is not empty."""
    x, y, width, height = cv2.boundingRect(mask)
    return int(x), int(y), int(width), int(height)


def draw_contour(image: Image, mask: Mask) -> None:
    """Draw a region's edge: a white line within a black one, visible on any background."""
    edges, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    thin = _line(image)
    cv2.drawContours(image, edges, -1, _BLACK, 3 * thin)
    cv2.drawContours(image, edges, -1, _WHITE, thin)


def draw_box(image: Image, box: tuple[int, int, int, int]) -> None:
    """Draw a box: a white line within a black one."""
    x, y, width, height = box
    thin = _line(image)
    corners = (x, y), (x + max(width, 1) - 1, y + max(height, 1) - 1)
    cv2.rectangle(image, *corners, _BLACK, 3 * thin)
    cv2.rectangle(image, *corners, _WHITE, thin)


def _line(image: Image) -> int:
    """A line's thickness in pixels, by the size of the picture."""
    short: int = min(image.shape[:2])
    return max(1, round(short / 400))


def draw_picture(image: Image, results: Sequence[Shown], style: Style) -> Image:
    """Draw heat, marks, boxes and words.

    The heat of an unknown region is a pale veil, see `veil`.

    Args:
        image: `uint8 [H, W, 3]` RGB, left as it is.
        results: one per region; without a region, one of the whole image.
        style: how. Of a signed map, what speaks for the answer is warm and what speaks against
            it cold; for a continuous outcome, what raises the estimate and what lowers it.

    Returns:
        A new `uint8 [H, W, 3]` RGB; with a caption a strip is added below, see `draw_caption`.
    """
    shape = image.shape[:2]
    unknown = [result for result in results if result.unknown]
    if unknown:
        looked_at, _ = painted_maps(unknown, style.map, shape)
        image = veil(image, looked_at, style.opacity, style.threshold)
    known = [result for result in results if not result.unknown]
    heat, lower = painted_maps(known, style.map, shape)
    drawn = overlay_in(style, image, heat, lower)
    region = None if style.mark == "none" else hottest_region(heat)
    if region is not None and style.mark == "contour":
        draw_contour(drawn, region)
    elif region is not None:
        draw_box(drawn, box_of(region))
    boxed = [
        (str(each.vote) if each.vote else words_of(each, style.map), each.box)
        for each in results
        if each.box is not None
    ]
    if style.boxes:
        for _, box in boxed:
            draw_box(drawn, box)
        # Labels last, so that no box crosses one.
        draw_labels(drawn, boxed)
    if style.caption and not (style.boxes and boxed):
        drawn = draw_caption(drawn, words_of(results[0], style.map) if results else "")
    return drawn


def words_of(result: Shown, map: MapName = "heatmap") -> str:
    """Nearest label and its similarity, best class and its score, or the estimate.

    Where the model's rule says so, `unknown` before them. Where the network gave no answer, that
    and why; where nothing in the picture speaks for the answer, `no evidence`; under a contrast,
    the runner-up and its similarity. In a run with votes the voted label comes first.
    """
    said = _own_words(result, map)
    return said if result.vote is None else result.vote.before(said, result.answer)


def _own_words(result: Shown, map: MapName) -> str:
    if result.error is not None:
        return f"{result.answer}: {result.error}"
    of = "" if result.scores is None else "score "
    if result.estimate is not None:
        said = f"estimate {result.answer}"
    elif result.unknown:
        said = f"unknown, nearest {result.labels[0]}  {result.similarities[0]:.2f}"
    else:
        said = f"{result.answer}  {of}{result.similarities[0]:.2f}"
    if map == "contrast" and result.runner_up_similarity is not None:
        said += f", not {result.runner_up_label}  {of}{result.runner_up_similarity:.2f}"
    return f"{said}, no evidence" if result.no_evidence else said
