"""One result as a picture, for who has an image in hand and no pipeline."""

from __future__ import annotations

from pathlib import PurePath

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.drawing.style import MapName, Style
from foldcam.runtime.gallery.gallery import Gallery
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.result import Result
from foldcam.runtime.sources.base import Frame


def draw_result(
    image: Image,
    result: Result,
    opacity: float = 0.6,
    map: MapName = "heatmap",
    *,
    gallery: Gallery | None = None,
) -> Image:
    """The photograph with its heat and a caption, as `runtime run --save` draws it.

    Args:
        image: `uint8 [H, W, 3]` RGB, the one that `result` is of.
        result: what a `FoldedModel` said of it.
        opacity: the opacity of the hottest place, in [0, 1].
        map: which map is drawn, see `Style`.
        gallery: of the model; with it the picture that was matched is drawn beside the photograph.

    Returns:
        A new `uint8 [H, W, 3]` RGB; of a signed map, what speaks for the answer is warm and what
        speaks against it cold; for a continuous outcome, what raises the estimate and what lowers
        it.

    Raises:
        FoldcamError: the result is of an image of another size or has no such map, or the opacity
            is out of range.
    """
    frame = Frame(image, 0, "", PurePath("image"), 0.0, 0.0)
    style = Style(opacity, map=map, beside=gallery is not None)
    return FrameResults(frame, [result], style, gallery=gallery).image
