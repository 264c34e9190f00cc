"""What the network is shown: views of each photograph, and mosaics of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.runtime.images.preprocess import Image, Preprocessing

MAX_CELLS = 9


def view(image: Image, number: int, generator: np.random.Generator) -> Image:
    """The `number`-th view: the photograph, its mirror image, then random crops.

    A random crop keeps 45 to 100 % of the area, with an aspect ratio up to a quarter
    off, is mirrored half of the time, and a little brighter, darker, flatter or
    steeper.

    Args:
        image: `uint8 [H, W, 3]` RGB.
        number: 0, 1, or more.
        generator: drawn from for numbers above 1 only.

    Returns:
        `uint8 [H', W', 3]` RGB.
    """
    if number == 0:
        return image
    if number == 1:
        return np.ascontiguousarray(image[:, ::-1])
    crop = _crop(image, generator, 0.45, 0.25)
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    contrast, brightness = generator.uniform(0.8, 1.2), generator.uniform(-15, 15)
    varied = (crop.astype(np.float32) - 127) * contrast + 127 + brightness
    return np.asarray(np.clip(varied, 0, 255), np.uint8)


@dataclass(frozen=True)
class Mosaic:
    """Several photographs in one picture of the network's input size.

    Trained on regions of mosaics, a network cannot decide by what stands elsewhere
    in the picture: the evidence for a label has to lie where the label is.

    Attributes:
        image: `uint8 [height, width, 3]` RGB.
        subjects: index of each cell's photograph, in reading order.
        boxes: `(x0, y0, x1, y1)` of each cell in pixels.
    """

    image: Image
    subjects: tuple[int, ...]
    boxes: tuple[tuple[int, int, int, int], ...]


def draw_mosaic(
    images: Sequence[Image],
    classes: npt.NDArray[np.int64],
    side: int,
    preprocessing: Preprocessing,
    generator: np.random.Generator,
) -> Mosaic:
    """A grid of `side` x `side` photographs, of different classes as far as there are enough.

    The lines between the cells are moved by up to a ninth of the side.
    """
    width, height = preprocessing.width, preprocessing.height
    members = [np.flatnonzero(classes == number) for number in np.unique(classes)]
    drawn: list[int] = []
    while len(drawn) < side * side:
        drawn += [int(generator.choice(members[n])) for n in generator.permutation(len(members))]
    columns = _cuts(width, side, generator)
    rows = _cuts(height, side, generator)
    canvas = np.empty((height, width, 3), np.uint8)
    boxes = []
    for cell in range(side * side):
        row, column = divmod(cell, side)
        x0, x1, y0, y1 = columns[column], columns[column + 1], rows[row], rows[row + 1]
        crop = _crop(images[drawn[cell]], generator, 0.7, 0.0)
        if generator.random() < 0.5:
            crop = crop[:, ::-1]
        fitted = Preprocessing(width=x1 - x0, height=y1 - y0)
        canvas[y0:y1, x0:x1], _ = fitted.resized(np.ascontiguousarray(crop))
        boxes.append((x0, y0, x1, y1))
    return Mosaic(canvas, tuple(drawn[: side * side]), tuple(boxes))


def region_masks(
    boxes: Sequence[tuple[int, int, int, int]],
    input_wh: tuple[int, int],
    feature_map_hw: tuple[int, int],
) -> npt.NDArray[np.float32]:
    """How much of each feature-map cell lies in each box.

    Returns:
        `float32 [MAX_CELLS, h, w]` in [0, 1]; zero beyond the given boxes.
    """
    height, width = feature_map_hw
    masks = np.zeros((MAX_CELLS, height, width), np.float32)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        across = _covered(x0, x1, input_wh[0], width)
        down = _covered(y0, y1, input_wh[1], height)
        masks[number] = down[:, None] * across[None, :]
    return masks


def _covered(start: int, stop: int, length: int, cells: int) -> npt.NDArray[np.float32]:
    edges = np.linspace(0, length, cells + 1)
    overlap = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    return np.asarray(np.clip(overlap, 0, None) * cells / length, np.float32)


def _crop(image: Image, generator: np.random.Generator, least_area: float, aspect: float) -> Image:
    height, width = image.shape[:2]
    side = np.sqrt(generator.uniform(least_area, 1.0))
    stretch = np.exp(generator.uniform(-aspect, aspect)) if aspect else 1.0
    crop_height = max(1, min(height, int(height * side * stretch)))
    crop_width = max(1, min(width, int(width * side / stretch)))
    top = int(generator.integers(height - crop_height + 1))
    left = int(generator.integers(width - crop_width + 1))
    return image[top : top + crop_height, left : left + crop_width]


def _cuts(length: int, side: int, generator: np.random.Generator) -> list[int]:
    spread = length // 9 if side > 1 else 0
    moved = [
        length * number // side + int(generator.integers(-spread, spread + 1))
        for number in range(1, side)
    ]
    # Moved lines of a small input could meet.
    return [0, *(max(n + 1, min(length - side + n + 1, m)) for n, m in enumerate(moved)), length]
