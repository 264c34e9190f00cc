"""A frame and what the model says of it, drawn only if some sink wants the picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from foldcam.runtime.drawing.maps import maps_of
from foldcam.runtime.drawing.outlines import box_of, draw_box, draw_contour, hottest_region
from foldcam.runtime.drawing.overlay import Heat, overlay, overlay_both
from foldcam.runtime.drawing.painting import painted_on_frame
from foldcam.runtime.drawing.style import Style
from foldcam.runtime.drawing.text import draw_caption, draw_label
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.result import Result
from foldcam.runtime.sources.base import Frame


class FrameResults:
    """One frame's results; heat and picture are computed once, on first use, by any thread.

    Args:
        frame: the photograph.
        results: one per region of it; a whole frame is one region, and a detector may have
            found none.
        style: how the picture is drawn.
        drawn: called with the milliseconds that drawing took.

    Attributes:
        frame: as given.
        results: as given, as a tuple.
    """

    def __init__(
        self,
        frame: Frame,
        results: Sequence[Result],
        style: Style | None = None,
        drawn: Callable[[float], None] | None = None,
    ) -> None:
        self.frame = frame
        self.results = tuple(results)
        self._style = style or Style()
        self._on_drawn = drawn
        self._lock = threading.Lock()
        self._heat: Heat | None = None
        self._heat_lower: Heat | None = None
        self._image: Image | None = None

    @property
    def result(self) -> Result | None:
        """The first region's result; None where there is none."""
        return self.results[0] if self.results else None

    @property
    def heat(self) -> Heat:
        """`float32 [H, W]` in [0, 1], on the frame; where regions overlap, the hotter one's."""
        with self._lock:
            return self._painted_heat()

    @property
    def heat_lower(self) -> Heat | None:
        """As `heat`, of what lowers the estimate; None for a model of labels."""
        with self._lock:
            return self._painted_lower()

    @property
    def image(self) -> Image:
        """`uint8 [H, W, 3]` RGB: photograph, heat and caption. Nobody may write into it.

        Of a signed map, what speaks for the answer is warm and what speaks against it cold; for
        a continuous outcome, what raises the estimate and what lowers it.

        Raises:
            FoldcamError: the style asks for a map that the model does not have.
        """
        with self._lock:
            if self._image is None:
                begun = time.perf_counter()
                self._image = self._drawn()
                if self._on_drawn is not None:
                    self._on_drawn(1e3 * (time.perf_counter() - begun))
            return self._image

    @property
    def caption(self) -> str:
        """Nearest label and its similarity, best class and its score, or the estimate, of the
        first region.

        Where the network gave no answer, that and why; where nothing in the picture speaks for
        the answer, `no evidence`; under a contrast, the runner-up and its similarity.
        """
        return "" if self.result is None else _words(self.result, self._style)

    @property
    def maps(self) -> list[tuple[Heat, Heat | None]]:
        """Per result the maps that the style shows; see `runtime.drawing.maps.maps_of`.

        Raises:
            FoldcamError: the model does not have them.
        """
        return [maps_of(result, self._style.map) for result in self.results]

    def _drawn(self) -> Image:
        style, image = self._style, self.frame.image
        heat, lower = self._painted_maps()
        if lower is None:
            drawn = overlay(image, heat, style.opacity, style.colormap, style.threshold)
        else:
            drawn = overlay_both(image, heat, lower, style.opacity, style.threshold)
        region = None if style.mark == "none" else hottest_region(heat)
        if region is not None and style.mark == "contour":
            draw_contour(drawn, region)
        elif region is not None:
            draw_box(drawn, box_of(region))
        boxed = [result for result in self.results if result.box is not None]
        if style.boxes:
            for result in boxed:
                assert result.box is not None
                draw_box(drawn, result.box)
            # Labels last, so that no box crosses one.
            for result in boxed:
                assert result.box is not None
                draw_label(drawn, _words(result, style), result.box)
        if style.caption and not (style.boxes and boxed):
            drawn = draw_caption(drawn, self.caption)
        return drawn

    def _painted_maps(self) -> tuple[Heat, Heat | None]:
        if self._style.map == "heatmap":
            return self._painted_heat(), self._painted_lower()
        raising, lowering = zip(*self.maps, strict=True) if self.results else ((), ())
        return self._hottest_of(raising), self._hottest_of(lowering)

    def _painted_heat(self) -> Heat:
        if self._heat is None:
            self._heat = self._hottest_of([result.heatmap for result in self.results])
        return self._heat

    def _painted_lower(self) -> Heat | None:
        lower = [result.heatmap_lower for result in self.results]
        maps = [heatmap for heatmap in lower if heatmap is not None]
        if not maps:
            return None
        if self._heat_lower is None:
            self._heat_lower = self._hottest_of(maps)
        return self._heat_lower

    def _hottest_of(self, heatmaps: Sequence[Heat]) -> Heat:
        painted = [
            painted_on_frame(heatmap, result)
            for heatmap, result in zip(heatmaps, self.results, strict=True)
        ]
        if not painted:
            return np.zeros(self.frame.image.shape[:2], np.float32)
        hottest = painted[0]
        for heat in painted[1:]:
            np.maximum(hottest, heat, out=hottest)
        return hottest


def _words(result: Result, style: Style) -> str:
    if result.error is not None:
        return f"{result.answer}: {result.error}"
    of = "" if result.scores is None else "score "
    if result.estimate is not None:
        said = f"estimate {result.answer}"
    else:
        said = f"{result.answer}  {of}{result.similarities[0]:.2f}"
    if style.map == "contrast" and result.runner_up_similarity is not None:
        said += f", not {result.runner_up_label}  {of}{result.runner_up_similarity:.2f}"
    return f"{said}, no evidence" if result.no_evidence else said
