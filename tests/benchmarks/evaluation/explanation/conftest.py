"""A world where it is known which cell matters: a coloured patch in one of 4 x 4 cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldcam.benchmarks.evaluation.explanation.data import Parts, read_parts
from foldcam.export.models.spec import LoadedModel, wrap_module
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Preprocessing

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CELL = 8


class Patches(nn.Module):
    """Detectors of the three colours and a constant; a blurred patch of half a cell is not seen."""

    preprocessing = Preprocessing(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        weight = torch.zeros(4, 3)
        weight[:3] = 1.5 * torch.eye(3) - 0.5
        self.conv.weight = nn.Parameter(weight.reshape(4, 3, 1, 1))
        self.conv.bias = nn.Parameter(torch.tensor([-0.6, -0.6, -0.6, 0.05]))

    def cells(self, image: Tensor) -> Tensor:
        """`[N, 4, 4, 4]`."""
        return nn.functional.avg_pool2d(self.conv(image).relu(), CELL).relu()


class Everywhere(Patches):
    """Finds the patch wherever it is."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.normalize(self.cells(image).mean(dim=(2, 3)), dim=1)


class Corner(Patches):
    """Looks at the first cell, and nearly nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Conv2d(4, 4, 4, groups=4, bias=False)
        weight = torch.full((4, 1, 4, 4), 1e-4)
        weight[:, :, 0, 0] = 1.0
        self.where.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.normalize(self.where(self.cells(image)).flatten(1), dim=1)


def paint(folder: Path, place_of: Callable[[int], int], count: int = 8) -> Path:
    """`count` pictures of each colour; picture n has its patch in the cell `place_of(n)`."""
    generator = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            image = generator.integers(0, 12, (4 * CELL, 4 * CELL, 3), np.uint8)
            row, column = divmod(place_of(number), 4)
            top, left = row * CELL + 2, column * CELL + 2
            image[top : top + 4, left : left + 4] = colour
            write_image(folder / label / f"{number}.png", image)
    return folder


@pytest.fixture(scope="session")
def everywhere() -> LoadedModel:
    """Finds the patch wherever it is."""
    return wrap_module(Everywhere(), name="tests:everywhere")


@pytest.fixture(scope="session")
def corner() -> LoadedModel:
    """Looks at the first cell alone."""
    return wrap_module(Corner(), name="tests:corner")


@pytest.fixture(scope="session")
def wandering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches at another place in every picture of a colour."""
    return paint(tmp_path_factory.mktemp("wandering"), lambda n: (7 * n) % 16, 12)


@pytest.fixture(scope="session")
def cornered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches in the first cell."""
    return paint(tmp_path_factory.mktemp("cornered"), lambda _: 0)


@pytest.fixture(scope="session")
def wandering_parts(wandering: Path) -> Parts:
    return read_parts(wandering)


@pytest.fixture(scope="session")
def cornered_parts(cornered: Path) -> Parts:
    return read_parts(cornered)
