"""Heat painted over the photograph it came from.

Coordinates are continuous pixels as in `runtime.images.preprocess`: pixel `i` covers
`[i, i + 1)` and its centre lies at `i + 0.5`, on the frame as on the heatmap.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.drawing.upsampling import axis_weights
from foldcam.runtime.system.errors import FoldcamError

Heat = npt.NDArray[np.float32]

# Colours of `overlay_both`, RGB: far apart for the colour-blind, too.
WARM = (255, 96, 0)
COLD = (0, 96, 255)

COLORMAPS = {
    "turbo": cv2.COLORMAP_TURBO,
    "inferno": cv2.COLORMAP_INFERNO,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "jet": cv2.COLORMAP_JET,
}
PALE = (208, 208, 208)
"""RGB of the veil."""
_OPACITY = 0.5
"""Of the opacity that an answer's heat has."""


def heatmap_on_frame(
    heatmap: Heat, affine: Affine, input_wh: tuple[int, int], frame_wh: tuple[int, int]
) -> Heat:
    """Paint a heatmap back through the preprocessing, smoothly; see `upsampling`.

    Within the part of the frame that the network saw, the sum is kept: a cell's heat times the
    pixels that it covers. Outside of it (beside a centre crop) the heat is zero.

    Args:
        heatmap: `float32 [h', w']`, covering the network's whole input.
        affine: maps pixels of the network's input to pixels of the frame.

    Returns:
        `float32 [H, W]` of the frame, within the heatmap's range of values. Its maximum is the
        heatmap's or less, and at least 3/4 of it where the network saw the hottest cell's centre.
    """
    rows, columns = heatmap.shape
    across = axis_weights(frame_wh[0], columns, affine.scale_x, affine.offset_x, input_wh[0])
    down = axis_weights(frame_wh[1], rows, affine.scale_y, affine.offset_y, input_wh[1])
    # The map is axis-aligned, so this is two small matrix products. OpenCV's warps round
    # positions to 1/32 of a heatmap cell, which shows as steps on a large frame.
    painted: Heat = down @ (np.asarray(heatmap, np.float32) @ across.T)
    return painted


def overlay(
    image: Image, heat: Heat, opacity: float = 0.6, colormap: str = "turbo", threshold: float = 0.0
) -> Image:
    """Blend heat over a photograph; the colder, the more of the photograph stays.

    Args:
        image: `uint8 [H, W, 3]` RGB.
        heat: `float32 [H, W]` in [0, 1].
        opacity: the opacity of the hottest place, in [0, 1].
        colormap: one of `COLORMAPS`.
        threshold: heat below it, in [0, 1], is not painted.

    Returns:
        A new `uint8 [H, W, 3]` RGB.

    Raises:
        FoldcamError: unknown colour map, opacity outside [0, 1], or sizes that differ.
    """
    _check_heat(image, heat, opacity)
    share = painted_share(heat, threshold)
    colored = cv2.applyColorMap(cv2.convertScaleAbs(share, alpha=255.0), palette(colormap))
    share *= np.float32(opacity)
    return blended(image, np.asarray(colored, np.uint8), share)


def overlay_both(
    image: Image, raising: Heat, lowering: Heat, opacity: float = 0.6, threshold: float = 0.0
) -> Image:
    """Blend what raises an estimate in `WARM` and what lowers it in `COLD` over a photograph.

    The photograph is shown in grey: a room of wood is warm and a sky cold already.
    """
    shares = []
    for heat in (raising, lowering):
        _check_heat(image, heat, opacity)
        shares.append(painted_share(heat, threshold))
    # Maps of one network never exceed one together; what is painted on may, by rounding.
    excess = np.maximum(shares[0] + shares[1], 1.0)
    warm, cold = ((share * np.float32(opacity) / excess)[..., None] for share in shares)
    colors = warm * np.asarray(WARM, np.float32) + cold * np.asarray(COLD, np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    drawn = grey * (np.float32(1.0) - warm - cold) + colors
    return np.asarray(np.clip(np.rint(drawn), 0, 255), np.uint8)


def overlay_in(style: Style, image: Image, warm: Heat, cold: Heat | None) -> Image:
    """Heat as a style has it: `overlay`, or `overlay_both` where there is a cold map."""
    if cold is None:
        return overlay(image, warm, style.opacity, style.colormap, style.threshold)
    return overlay_both(image, warm, cold, style.opacity, style.threshold)


def painted_share(heat: Heat, threshold: float) -> Heat:
    """A copy of the heat, within [0, 1]: NaN and what is below the threshold are 0."""
    share = np.array(heat, np.float32, order="C")
    cv2.patchNaNs(share, 0.0)
    np.clip(share, 0.0, 1.0, out=share)
    if threshold > 0.0:
        share[share < threshold] = 0.0
    return share


def blended(image: Image, colors: Image, share: Heat) -> Image:
    """A new picture that is `colors` to the share `float32 [H, W]` in [0, 1], else `image`."""
    rest = np.float32(1.0) - share
    return np.asarray(cv2.blendLinear(np.ascontiguousarray(image), colors, rest, share), np.uint8)


def _check_heat(image: Image, heat: Heat, opacity: float) -> None:
    if not 0.0 <= opacity <= 1.0:
        raise FoldcamError(f"opacity is {opacity}: give a number from 0 to 1.")
    if heat.shape != image.shape[:2]:
        raise FoldcamError(
            f"The heat is {heat.shape[1]} x {heat.shape[0]} and the image "
            f"{image.shape[1]} x {image.shape[0]}: paint it with heatmap_on_frame first."
        )


@cache
def palette(colormap: str) -> npt.NDArray[np.uint8]:
    """The colour map as `uint8 [256, 1, 3]` RGB."""
    if colormap not in COLORMAPS:
        raise FoldcamError(f"{colormap!r} is no colour map: use one of {', '.join(COLORMAPS)}.")
    levels = np.arange(256, dtype=np.uint8)[:, None]
    blue_first = np.asarray(cv2.applyColorMap(levels, COLORMAPS[colormap]), np.uint8)
    return np.ascontiguousarray(blue_first[..., ::-1])


def veil(image: Image, heat: Heat, opacity: float = 0.6, threshold: float = 0.0) -> Image:
    """Blend the heat of unknown regions over a photograph, without a colour.

    What the network looked at stays visible, but a warm colour would say that it found a label
    there.
    """
    share = painted_share(heat, threshold) * np.float32(_OPACITY * opacity)
    return blended(image, np.full(image.shape, PALE, np.uint8), share)
