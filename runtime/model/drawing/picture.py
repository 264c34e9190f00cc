"""A photograph with its results drawn into it."""

from __future__ import annotations

from collections.abc import Sequence

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.maps import painted_maps
from foldcam.runtime.model.drawing.outlines import box_of, draw_box, draw_contour, hottest_region
from foldcam.runtime.model.drawing.overlay import overlay_in, veil
from foldcam.runtime.model.drawing.shown import Shown
from foldcam.runtime.model.drawing.style import MapName, Style
from foldcam.runtime.model.drawing.text import draw_caption, draw_labels


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
