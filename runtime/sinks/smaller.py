"""A frame and its results at a smaller size, drawn at that size: for pages and lists."""

from __future__ import annotations

from dataclasses import replace

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result


def smaller(item: FrameResults, side: int, style: Style) -> FrameResults:
    """The same frame with its longer side at most so many pixels.

    Args:
        side: in pixels.
    """
    image = fitted(item.frame.image, side, side)
    size = image.shape[1], image.shape[0]
    results = [_scaled(result, size) for result in item.results]
    return FrameResults(replace(item.frame, image=image), results, style, gallery=item.gallery)


def _scaled(result: Result, size: tuple[int, int]) -> Result:
    across, down = (new / old for new, old in zip(size, result.frame_wh, strict=True))
    affine = Affine(
        result.affine.scale_x * across, result.affine.scale_y * down,
        result.affine.offset_x * across, result.affine.offset_y * down,
    )  # fmt: skip
    box = result.box
    if box is not None:
        left, top = min(int(box[0] * across), size[0] - 1), min(int(box[1] * down), size[1] - 1)
        box = (
            left, top,
            max(1, min(round(box[2] * across), size[0] - left)),
            max(1, min(round(box[3] * down), size[1] - top)),
        )  # fmt: skip
    return replace(result, affine=affine, frame_wh=size, box=box)
