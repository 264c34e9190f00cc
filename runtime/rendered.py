"""The picture of one frame's result, drawn only if some sink wants it."""

from __future__ import annotations

from functools import cached_property

from runtime.model import Result
from runtime.overlay import Heat, draw_caption, heatmap_on_frame, overlay, overlay_both
from runtime.preprocess import Image
from runtime.sources import Frame


class Rendered:
    """A frame with its heat and its caption; each is computed once, on first use.

    Args:
        frame: the photograph.
        result: what the model says of it.
        opacity: of the hottest place, in [0, 1].
        colormap: one of `runtime.overlay.COLORMAPS`; a continuous outcome has its own two
            colours.
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
        return self._painted(self._result.heatmap)

    @cached_property
    def heat_lower(self) -> Heat | None:
        """As `heat`, of what lowers the estimate; None for a model of labels."""
        lower = self._result.heatmap_lower
        return None if lower is None else self._painted(lower)

    @cached_property
    def image(self) -> Image:
        """`uint8 [H, W, 3]` RGB: photograph, heat and caption.

        For a continuous outcome, what raises the estimate is warm and what lowers it cold.
        """
        if self.heat_lower is None:
            blended = overlay(self._frame.image, self.heat, self._opacity, self._colormap)
        else:
            blended = overlay_both(self._frame.image, self.heat, self.heat_lower, self._opacity)
        return draw_caption(blended, self.caption)

    @property
    def caption(self) -> str:
        """Nearest label and its similarity, or the estimate."""
        if self._result.estimate is not None:
            return f"estimate {self._result.answer}"
        return f"{self._result.answer}  {self._result.similarities[0]:.2f}"

    def _painted(self, heatmap: Heat) -> Heat:
        result = self._result
        return heatmap_on_frame(heatmap, result.affine, result.input_wh, result.frame_wh)
