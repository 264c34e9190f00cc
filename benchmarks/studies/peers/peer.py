"""What every peer is: an image and a question in, a heatmap out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PLAIN = "plain"
FOLDCAM = "foldcam"


@dataclass(frozen=True)
class Asked:
    """What is asked about one image, in the terms of every peer."""

    row: int  # the bank row that the folded graph returned for the single image
    embedding: Floats  # `float32 [D]` of norm 1, of the single image
    one_triplet: Floats  # `float32 [D]`, ascent of one random triplet's loss
    similarity: Floats  # `float32 [D]`, the embedding of that bank row
    all_triplets: Floats  # `float32 [D]`, ascent of all triplets of the row's class


Explain = Callable[[Floats, Asked], Floats]


@dataclass(frozen=True)
class Peer:
    """One way to a heatmap, on one thread."""

    name: str  # key of the results
    title: str  # what it is, in words
    library: str  # that does the work, with its version
    # `float32 [1, 3, H, W]` and a question -> `float32 [h, w]`, not negative. What is timed. The
    # plain networks return a map of no size
    run: Explain
    # the same for a picture of several images, of which one is asked for. None where `run` itself
    # answers that
    explain_grid: Explain | None = None
    # seconds `(wall, processor)` of the last run where another process did the work; None where
    # this one does
    remote_times: Callable[[], tuple[float, float]] | None = None
    close: Callable[[], None] = lambda: None  # gives back what it holds

    def explain(self, image: Floats, asked: Asked, grid: bool) -> Floats:
        """The heatmap of a single image, or of a grid."""
        if grid and self.explain_grid is not None:
            return self.explain_grid(image, asked)
        return self.run(image, asked)


NO_MAP: Floats = np.zeros((0, 0), np.float32)
"""What a network without a heatmap returns."""
