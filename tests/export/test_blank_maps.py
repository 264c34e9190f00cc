"""An export says for how many of its own training images the heatmap is blank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.spec import wrap_module
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Preprocessing


class _Colors(nn.Module):
    """Mean red and mean blue: nothing in a black picture adds to the sum."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Conv2d(3, 3, 2, 2, groups=3, bias=False)
        self.blocks.weight.data.fill_(0.25)
        self.head = nn.Linear(3, 2)
        self.head.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        self.head.bias.data = torch.tensor([0.1, 0.05])

    def forward(self, image):
        return self.head(torch.relu(self.blocks(image)).mean((2, 3)))


def _export(reds, folder, options=None):
    for label, channel, levels in (("blue", 2, (180, 200, 220)), ("red", 0, reds)):
        for number, level in enumerate(levels):
            photo = np.zeros((16, 16, 3), np.uint8)
            photo[..., channel] = level
            write_image(folder / "images" / label / f"{number}.png", photo)
    plain = Preprocessing(width=16, height=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    loaded = wrap_module(_Colors().eval(), preprocessing=plain, name="net:make")
    return export_model(
        loaded, load_dataset(folder / "images"), folder / "model.onnx", options=options
    )


@pytest.mark.parametrize(("reds", "subject"), [((0, 0), "2 of 5"), ((0, 200), "one of 5")])
def test_blank_maps_of_training_images_are_counted(reds, subject, tmp_path):
    report = _export(reds, tmp_path)
    (note,) = [note for note in report.notes if "blank" in note]
    assert note.startswith(f"The heatmap is blank for {subject} training images")


def test_nothing_is_said_where_every_image_has_a_map(tmp_path):
    report = _export((200, 230), tmp_path)
    assert not [note for note in report.notes if "blank" in note]


def test_the_advice_helps(tmp_path):
    (note,) = [note for note in _export((0, 0), tmp_path).notes if "blank" in note]
    assert "--baseline mean" in note
    report = _export((0, 0), tmp_path, FoldOptions(baseline="mean"))
    assert not [note for note in report.notes if "blank" in note]
