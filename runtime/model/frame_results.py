"""A frame and what the model says of it, drawn only if some sink wants the picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.maps import maps_of, painted_maps
from foldcam.runtime.model.drawing.overlay import Heat
from foldcam.runtime.model.drawing.picture import draw_picture, words_of
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.match import with_match
from foldcam.runtime.model.result import Result
from foldcam.runtime.sources.base import Frame


class FrameResults:
    """One frame's results; heat and picture are computed once, on first use, by any thread.

    Args:
        frame: the photograph.
        results: one per region of it; a whole frame is one region, and a detector may have
            found none.
        style: how the picture is drawn.
        drawn: called with the milliseconds that drawing took.
        gallery: the pictures of the bank's rows; without them no match is drawn beside.

    Attributes:
        frame, gallery: as given.
        results: as given, as a tuple.
        style: as given, or the style without options.
    """

    def __init__(
        self,
        frame: Frame,
        results: Sequence[Result],
        style: Style | None = None,
        drawn: Callable[[float], None] | None = None,
        gallery: Gallery | None = None,
    ) -> None:
        self.frame = frame
        self.results = tuple(results)
        self.style = style or Style()
        self.gallery = gallery
        self._on_drawn = drawn
        self._lock = threading.Lock()
        self._heat: Heat | None = None
        self._image: Image | None = None

    @property
    def result(self) -> Result | None:
        """The first region's result; None where there is none."""
        return self.results[0] if self.results else None

    @property
    def heat(self) -> Heat:
        """`float32 [H, W]` in [0, 1], on the frame; where regions overlap, the hotter one's."""
        with self._lock:
            if self._heat is None:
                shape = self.frame.image.shape[:2]
                self._heat, _ = painted_maps(self.results, "heatmap", shape)
            return self._heat

    @property
    def image(self) -> Image:
        """`uint8 [H', W, 3]` RGB: photograph and heat, and a strip below with the caption.

        It is the same strip for all frames of one size. Nobody may write into the picture.

        Of a signed map, what speaks for the answer is warm and what speaks against it cold; for
        a continuous outcome, what raises the estimate and what lowers it.

        Raises:
            FoldcamError: the style asks for a map that the model does not have.
        """
        with self._lock:
            if self._image is None:
                begun = time.perf_counter()
                drawn = draw_picture(self.frame.image, self.results, self.style)
                if self.style.beside and self.gallery is not None:
                    drawn = with_match(drawn, self.result, self.gallery, self.style)
                self._image = drawn
                if self._on_drawn is not None:
                    self._on_drawn(1e3 * (time.perf_counter() - begun))
            return self._image

    @property
    def caption(self) -> str:
        """What is written of the first region, see `words_of`."""
        return "" if self.result is None else words_of(self.result, self.style.map)

    @property
    def maps(self) -> list[tuple[Heat, Heat | None]]:
        """Per result the maps that the style shows; see `runtime.model.drawing.maps.maps_of`.

        Raises:
            FoldcamError: the model does not have them.
        """
        return [maps_of(result, self.style.map) for result in self.results]
