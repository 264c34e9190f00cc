"""Labelled images with boxes, in the network's input coordinates, alone and in grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.datasets import Sample
from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Subjects:
    """Images to be explained."""

    images: tuple[Image, ...]  # as read, `uint8 [H, W, 3]` RGB
    resized: tuple[Image, ...]  # at the network's input size
    labels: tuple[str, ...]  # one per image
    # `float64 [N, 4]`, half-open `(x0, y0, x1, y1)` in pixels of the network's input, clipped to
    # it
    boxes: npt.NDArray[np.float64]
    skipped: tuple[tuple[str, str], ...]  # files that could not be used, with the reason

    def __len__(self) -> int:
        return len(self.labels)


def load_subjects(samples: Sequence[Sample], preprocessing: Preprocessing) -> Subjects:
    """Read images and bring their boxes to the network's input."""
    images: list[Image] = []
    resized: list[Image] = []
    labels: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    skipped: list[tuple[str, str]] = []
    for sample in samples:
        if sample.box is None:
            skipped.append((str(sample.path), "has no box"))
            continue
        try:
            image = read_image(sample.path)
        except FoldcamError as error:
            skipped.append((str(sample.path), str(error)))
            continue
        small, affine = preprocessing.resized(image)
        left = (sample.box.x - affine.offset_x) / affine.scale_x
        top = (sample.box.y - affine.offset_y) / affine.scale_y
        right = left + sample.box.width / affine.scale_x
        bottom = top + sample.box.height / affine.scale_y
        box = (
            min(max(left, 0.0), preprocessing.width),
            min(max(top, 0.0), preprocessing.height),
            min(max(right, 0.0), preprocessing.width),
            min(max(bottom, 0.0), preprocessing.height),
        )
        if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
            skipped.append((str(sample.path), "its box lies outside what the network sees"))
            continue
        images.append(image)
        resized.append(small)
        labels.append(sample.label)
        boxes.append(box)
    if not labels:
        reason = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise FoldcamError(f"Localization needs labelled images with boxes, and has none{reason}.")
    return Subjects(tuple(images), tuple(resized), tuple(labels), np.asarray(boxes), tuple(skipped))


@dataclass(frozen=True)
class Grid:
    """Which subjects stand in a grid."""

    side: int  # cells per side
    subjects: tuple[int, ...]  # indices of the subjects in reading order
    asked: int  # index of the subject that is asked for
    cell: int  # where it stands in reading order


def draw_grids(labels: Sequence[str], side: int, repeats: int, seed: int) -> list[Grid]:
    """Ask for every subject `repeats` times, among random subjects of other labels.

    The other cells take different labels as long as there are enough of them.
    """
    generator = np.random.default_rng([seed, side])
    members = {name: np.flatnonzero(np.asarray(labels) == name) for name in sorted(set(labels))}
    if len(members) < 2:
        raise FoldcamError("Grid pointing needs images of at least two labels.")
    grids = []
    for _ in range(repeats):
        for asked, label in enumerate(labels):
            others = [name for name in members if name != label]
            names: list[str] = []
            while len(names) < side * side - 1:
                names += [str(name) for name in generator.permutation(others)]
            chosen = [int(generator.choice(members[n])) for n in names[: side * side - 1]]
            cell = int(generator.integers(side * side))
            chosen.insert(cell, asked)
            grids.append(Grid(side, tuple(chosen), asked, cell))
    return grids


def grid_image(grid: Grid, images: Sequence[Image], preprocessing: Preprocessing) -> Image:
    """The grid as one picture of the network's input size, `uint8 [height, width, 3]` RGB.

    Args:
        images: of all subjects, any sizes; each fills its cell by the preprocessing's resize rule.
    """
    canvas = np.zeros((preprocessing.height, preprocessing.width, 3), np.uint8)
    rows = np.rint(np.linspace(0, preprocessing.height, grid.side + 1)).astype(int)
    columns = np.rint(np.linspace(0, preprocessing.width, grid.side + 1)).astype(int)
    for number, subject in enumerate(grid.subjects):
        row, column = divmod(number, grid.side)
        top, bottom = int(rows[row]), int(rows[row + 1])
        left, right = int(columns[column]), int(columns[column + 1])
        cell = Preprocessing(width=right - left, height=bottom - top, resize=preprocessing.resize)
        canvas[top:bottom, left:right], _ = cell.resized(images[subject])
    return canvas
