"""A region's heatmap back on the frame."""

from __future__ import annotations

import numpy as np

from foldcam.runtime.batch import shifted
from foldcam.runtime.drawing.overlay import Heat, heatmap_on_frame
from foldcam.runtime.result import Result


def painted_on_frame(heatmap: Heat, result: Result) -> Heat:
    """Paint a heatmap of a result where the network saw it; the rest of the frame is cold.

    Args:
        heatmap: `float32 [h', w']`, such as `result.heatmap`.
        result: says where on the frame it belongs.

    Returns:
        `float32 [H, W]` of the frame, with the heatmap's range of values.
    """
    if result.box is None:
        return heatmap_on_frame(heatmap, result.affine, result.input_wh, result.frame_wh)
    # On the region alone: a letterbox's padding has heat as well, and lies beside it.
    x, y, width, height = result.box
    within = shifted(result.affine, -x, -y)
    frame = np.zeros((result.frame_wh[1], result.frame_wh[0]), np.float32)
    frame[y : y + height, x : x + width] = heatmap_on_frame(
        heatmap, within, result.input_wh, (width, height)
    )
    return frame
