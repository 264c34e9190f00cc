"""How the heat of an unknown image is drawn: a pale veil, which claims nothing."""

from __future__ import annotations

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.overlay import Heat, blended, painted_share

PALE = (208, 208, 208)
"""RGB of the veil."""
_OPACITY = 0.5
"""Of the opacity that an answer's heat has."""


def veil(image: Image, heat: Heat, opacity: float = 0.6, threshold: float = 0.0) -> Image:
    """Blend the heat of unknown regions over a photograph, without a colour.

    What the network looked at stays visible, but a warm colour would say that it found a label
    there.

    Args:
        heat: `float32 [H, W]` in [0, 1].
        opacity: the opacity that the hottest place of a known region has, in [0, 1].
        threshold: heat below it, in [0, 1], is not painted.
    """
    share = painted_share(heat, threshold) * np.float32(_OPACITY * opacity)
    return blended(image, np.full(image.shape, PALE, np.uint8), share)
