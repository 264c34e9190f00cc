"""An objective of your own: from embeddings and labels to one direction per image.

    python examples/objective.py OUT

makes photographs, folds a small network with the objective below, and writes OUT/photos/ and
OUT/model.onnx, which the other examples take.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from foldcam import Preprocessing, export_model, training_data, wrap_module, write_image
from foldcam.export.banks.objectives.directions import Directions, Floats, Integers, Objective


def nearest_rival(embeddings: Floats, labels: Integers) -> Directions:
    """Towards the mean of the own class, away from that of the most similar other class.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`, class numbers 0..C-1, each present.

    Returns:
        `float32 [N, D]`: minus the gradient of the loss `|e - own|^2 - |e - rival|^2`, halved.
    """
    means = np.stack([embeddings[labels == c].mean(axis=0) for c in range(labels.max() + 1)])
    likeness = means @ means.T
    np.fill_diagonal(likeness, -np.inf)
    per_class = (means - means[likeness.argmax(axis=1)]).astype(np.float32)
    # All rows of a class have one direction: the bank then stores one row of it per class.
    return Directions(per_class[labels], per_class=True)


OBJECTIVE = Objective("nearest-rival", nearest_rival)


class Network(nn.Module):
    """Images `[N, 3, 96, 96]` to embeddings `[N, 32]`."""

    def __init__(self) -> None:
        super().__init__()
        front = nn.Conv2d(3, 32, 5, stride=4, padding=2), nn.ReLU()
        back = nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
        self.features, self.head = nn.Sequential(*front, *back), nn.Linear(64, 32)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embed a batch."""
        return nn.functional.normalize(self.head(self.features(image).mean((2, 3))))


def write_photos(folder: Path) -> None:
    """Discs of three colours on grey noise, four of each."""
    random = np.random.default_rng(0)
    colors = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 40, 30)}
    for label, color in colors.items():
        for number in range(4):
            image = random.integers(90, 160, (96, 96, 1), np.uint8).repeat(3, axis=2)
            x, y = random.integers(20, 76, 2)
            rows, columns = np.ogrid[:96, :96]
            image[(columns - x) ** 2 + (rows - y) ** 2 < 12**2] = color
            write_image(folder / label / f"{number}.png", image)


def main(out: Path) -> None:
    """Fold a network with the objective."""
    write_photos(out / "photos")
    torch.manual_seed(0)
    loaded = wrap_module(Network(), preprocessing=Preprocessing(width=96, height=96))
    data = training_data(out / "photos")
    report = export_model(loaded, data, out / "model.onnx", OBJECTIVE)
    print(f"objective {report.contract.bank.objective}, {report.contract.bank.rows} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
