"""A world where the right answers are known: coloured squares."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from foldcam.runtime.images.files import write_image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
# Channels of the map are detectors of the three colours, and a constant beside which
# they count: what speaks for red is red, and less of it when it is blurred.
NETWORK = """
import torch
from torch import nn

class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        weight = torch.zeros(4, 3)
        weight[:3] = 1.5 * torch.eye(3) - 0.5
        self.conv.weight = nn.Parameter(weight.reshape(4, 3, 1, 1))
        self.conv.bias = nn.Parameter(torch.tensor([-0.6, -0.6, -0.6, 0.05]))
    def forward(self, image):
        pooled = torch.nn.functional.avg_pool2d(self.conv(image).relu(), 2).mean(dim=(2, 3))
        return nn.functional.normalize(pooled, dim=1)

class Squared(Colours):
    def forward(self, image):
        pooled = self.conv(image).relu().mean(dim=(2, 3))
        return nn.functional.normalize(pooled * pooled + pooled, dim=1)

make, squared = Colours, Squared
"""


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 photographs of one coloured square each, with boxes, and networks that name colours."""
    folder = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    rows = []
    for label, colour in COLOURS.items():
        for number in range(9):
            image = generator.integers(0, 12, (32, 32, 3), np.uint8)
            x, y = (int(value) for value in generator.integers(0, 17, 2))
            image[y : y + 16, x : x + 16] = colour
            write_image(folder / f"{label}-{number}.png", image)
            rows.append([f"{label}-{number}.png", label, x, y, 16, 16])
    with (folder / "squares.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "x", "y", "w", "h"], *rows])
    (folder / "overhead_squares.py").write_text(NETWORK)
    return folder
