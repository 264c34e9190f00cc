"""The picture of one frame's result, drawn only if some sink wants it."""

from __future__ import annotations

from functools import cached_property

from runtime.model import Result
from runtime.overlay import Heat, draw_caption, heatmap_on_frame, overlay
from runtime.preprocess import Image
from runtime.sources import Frame


class Rendered:
    """A frame with its heat and its caption; each is computed once, on first use.

    Args:
        frame: the photograph.
        result: what the model says of it.
        opacity: of the hottest place, in [0, 1].
        colormap: one of `runtime.overlay.COLORMAPS`.
    """

    def __init__(
        self, frame: Frame, result: Result, opacity: float = 0.6, colormap: str = "turbo"
    ) -> None:
        self._frame = frame
        self._result = result
        self._opacity = opacity
        self._colormap = colormap

    @cached_property
    def heat(self) -> Heat:
        """`float32 [H, W]` in [0, 1], on the frame."""
        result = self._result
        return heatmap_on_frame(result.heatmap, result.affine, result.input_wh, result.frame_wh)

    @cached_property
    def image(self) -> Image:
        """`uint8 [H, W, 3]` RGB: photograph, heat and caption."""
        blended = overlay(self._frame.image, self.heat, self._opacity, self._colormap)
        return draw_caption(blended, self.caption)

    @property
    def caption(self) -> str:
        """Nearest label and its similarity."""
        return f"{self._result.labels[0]}  {self._result.similarities[0]:.2f}"
