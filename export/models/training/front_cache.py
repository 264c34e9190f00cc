"""The frozen front's output for every view and mosaic, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.models.training.trainee import Trainee
from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.system.files import atomic_path, user_errors_for

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


StageProgress = Callable[[str, int, int], None]
Halves = npt.NDArray[np.float16]

_BATCH = 16


@dataclass(frozen=True)
class FrontCache:
    """What the learning part is fed.

    Attributes:
        views: per value of the front, `float16 [V, N, ...]`.
        mosaics: per value of the front, `float16 [M, ...]`.
        masks: `float32 [M, 9, h, w]`, how much of each feature-map cell lies in
            each cell of the mosaic.
        subjects: `int64 [M, 9]`, index of the photograph in each cell, -1 beyond.
    """

    views: list[Halves]
    mosaics: list[Halves]
    masks: npt.NDArray[np.float32]
    subjects: npt.NDArray[np.int64]


def build_front_cache(
    trainee: Trainee,
    preprocessing: Preprocessing,
    images: Sequence[Image],
    classes: npt.NDArray[np.int64],
    folder: Path,
    *,
    views: int,
    mosaics: int,
    seed: int,
    progress: StageProgress,
) -> FrontCache:
    """Run the front over all views and mosaics, or go on where an interruption left off.

    Args:
        images: the photographs, `uint8 [H, W, 3]` RGB.
        classes: `int64 [N]`; mosaics are of different classes.
        mosaics: in all; a quarter of them 3 x 3, the others 2 x 2.
    """
    with user_errors_for(folder / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    stored: list[list[Halves]] = []
    for number in range(views):

        def shown(index: int, number: int = number) -> Image:
            generator = np.random.default_rng([seed, 0, number, index])
            return preprocessing.resized(view(images[index], number, generator))[0]

        def embedded(done: int, number: int = number) -> None:
            progress("views", number * len(images) + done, views * len(images))

        stored.append(
            _part(trainee, preprocessing, folder, f"view-{number}", len(images), shown, embedded)
        )
    drawn = [
        draw_mosaic(
            images, classes, 3 if number % 4 == 3 else 2, preprocessing,
            np.random.default_rng([seed, 1, number]),
        )
        for number in range(mosaics)
    ]  # fmt: skip
    height, width = trainee.feature_map_shape[1:]
    masks = np.zeros((mosaics, MAX_CELLS, height, width), np.float32)
    subjects = np.full((mosaics, MAX_CELLS), -1, np.int64)
    for number, mosaic in enumerate(drawn):
        size = (preprocessing.width, preprocessing.height)
        masks[number] = region_masks(mosaic.boxes, size, (height, width))
        subjects[number, : len(mosaic.subjects)] = mosaic.subjects
    parts: list[Halves] = []
    if mosaics:
        parts = _part(
            trainee, preprocessing, folder, "mosaics", mosaics,
            lambda index: drawn[index].image,
            lambda done: progress("mosaics", done, mosaics),
        )  # fmt: skip
    count = len(stored[0])
    return FrontCache(
        views=[np.stack([part[value] for part in stored]) for value in range(count)],
        mosaics=parts,
        masks=masks,
        subjects=subjects,
    )


def _part(
    trainee: Trainee,
    preprocessing: Preprocessing,
    folder: Path,
    name: str,
    count: int,
    shown: Callable[[int], Image],
    progress: Callable[[int], None],
) -> list[Halves]:
    """The front's values for `count` pictures, from disk where they are finished."""
    index = folder / f"{name}.json"
    if index.exists():
        values = json.loads(index.read_text())
        progress(count)
        return [np.load(folder / f"{name}-{n}.npy", allow_pickle=False) for n in range(values)]
    rows: list[list[Halves]] = []
    for start in range(0, count, _BATCH):
        batch = np.stack([shown(n) for n in range(start, min(start + _BATCH, count))])
        found = trainee.run_front(torch.from_numpy(preprocessing.normalized(batch)))
        rows.append([_half(value.numpy()) for value in found])
        progress(min(start + _BATCH, count))
    parts = [np.concatenate([row[n] for row in rows]) for n in range(len(rows[0]))]
    for number, part in enumerate(parts):
        with atomic_path(folder / f"{name}-{number}.npy") as temporary:
            np.save(temporary, part, allow_pickle=False)
    # Last, so that it stands for all of them.
    with atomic_path(index) as temporary:
        temporary.write_text(json.dumps(len(parts)))
    return parts


def _half(values: npt.NDArray[np.float32]) -> Halves:
    """Half precision, at half the memory; clipped, because some networks exceed its range."""
    limit = float(np.finfo(np.float16).max)
    return np.clip(values, -limit, limit).astype(np.float16)
