"""Pictures of any size as the frame of a fixed size that a graph makes its input of by itself."""

from __future__ import annotations

import numpy as np

from foldcam.runtime.images.preprocess import Affine, Image, Preprocessing, resize

Size = tuple[int, int]
"""`(width, height)` in pixels."""


def framed(
    image: Image, recipe: Preprocessing, frame: Size, out: Image | None = None
) -> tuple[Image, Affine]:
    """A picture as a frame of which the graph makes the network's input, by the same recipe.

    A frame of the right size is taken as it is. Of any other picture the network is shown what
    the recipe alone would show it, resized twice; only where the recipe is `letterbox` and the
    picture is taller or wider than the frame in its proportions, it is shown smaller.

    Args:
        image: `uint8 [H, W, 3]` RGB of any size.
        out: `uint8 [height, width, 3]` that is written and returned, if given.

    Returns:
        `uint8 [height, width, 3]` RGB, and the map from pixels of the *network's input* to
        pixels of the picture.
    """
    width, height = frame
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    size = image.shape[1], image.shape[0]
    affine = framed_affine(size, recipe, frame)
    if size == frame:
        out[:] = image
        return out, affine
    if recipe.resize == "letterbox":
        _within(recipe, frame).resized(image, out)
        return out, affine
    out[:] = 0  # what the graph cuts off
    x, y, across, down = recipe.fit(*size).region
    left, top, wide, high = recipe.fit(*frame).region
    resize(image[y : y + down, x : x + across], out[top : top + high, left : left + wide])
    return out, affine


def framed_affine(size: Size, recipe: Preprocessing, frame: Size) -> Affine:
    """The map of `framed` for pictures of a size, from the network's input to the picture."""
    if recipe.resize != "letterbox" or size == frame:
        return recipe.fit(*size).affine
    inner, outer = _within(recipe, frame).fit(*size).affine, recipe.fit(*frame).affine
    return Affine(
        inner.scale_x * outer.scale_x,
        inner.scale_y * outer.scale_y,
        inner.scale_x * outer.offset_x + inner.offset_x,
        inner.scale_y * outer.offset_y + inner.offset_y,
    )


def shown_smaller(size: Size, recipe: Preprocessing, frame: Size) -> bool:
    """Whether a picture of a size is shown smaller as a frame than the recipe alone shows it."""
    scale = framed_affine(size, recipe, frame).scale_x / recipe.fit(*size).affine.scale_x
    # Sides are whole pixels.
    return scale > 1.05


def _within(recipe: Preprocessing, frame: Size) -> Preprocessing:
    width, height = frame
    return Preprocessing(width, height, recipe.resize, recipe.color, recipe.mean, recipe.std)
