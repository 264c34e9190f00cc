"""Grids of images of different labels, of which one cell is asked for (Rao et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Grid:
    """Which subjects stand in a grid.

    Attributes:
        side: cells per side.
        subjects: indices of the subjects in reading order.
        asked: index of the subject that is asked for.
        cell: where it stands in reading order.
    """

    side: int
    subjects: tuple[int, ...]
    asked: int
    cell: int


def draw_grids(labels: Sequence[str], side: int, repeats: int, seed: int) -> list[Grid]:
    """Ask for every subject `repeats` times, among random subjects of other labels.

    The other cells take different labels as long as there are enough of them.

    Raises:
        FoldcamError: all subjects have one label.
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
        grid: which subjects stand where.
        images: of all subjects, any sizes; each fills its cell by the
            preprocessing's resize rule.
        preprocessing: gives the size.
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
