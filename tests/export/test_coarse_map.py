"""A feature map of few cells is warned of, and a finer layer is named where it works."""

from __future__ import annotations

import re

import onnx
import pytest
import torch
from torch import nn

from foldcam.export.exporting.trials import coarse_notes
from foldcam.export.models.spec import load_model, wrap_module


class _Stages(nn.Module):
    """Three stages with a shortcut around the last; the map is an eighth of the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.around = nn.Conv2d(8, 8, 1, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        middle = self.second(self.first(image))
        return self.head((self.third(middle) + self.around(middle)).mean((2, 3)))


def _loaded(kind, size, folder):
    module = _Stages().eval()
    if kind == "torch":
        return wrap_module(module)
    path = folder / "network.onnx"
    torch.onnx.export(
        module,
        (torch.zeros(2, 3, *size),),
        str(path),
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "n"}},
        opset_version=17,
    )
    return load_model(str(path))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(("size", "cells"), [((24, 24), "3 x 3"), ((32, 16), "4 x 2")])
def test_a_map_of_few_cells_is_warned_of_and_the_layer_that_is_named_works(
    kind, size, cells, tmp_path
):
    loaded = _loaded(kind, size, tmp_path)
    (note,) = coarse_notes(loaded, loaded.network(size=size))
    assert f"has {cells} cells only" in note
    layer, height, width = re.search(r"--layer (\S+) has (\d+) x (\d+)", note).groups()
    finer = loaded.network(layer, size)
    assert finer.feature_map_shape[1:] == (int(height), int(width))
    assert int(height) * int(width) >= 25
    activations = finer.forward(torch.randn(2, 3, *size))
    assert finer.pull_back(activations, torch.ones(2, 4)).abs().amin(0).amax() > 0
    onnx.checker.check_model(finer.to_onnx(18), full_check=True)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_map_of_many_cells_is_nothing_to_speak_of(kind, tmp_path):
    loaded = _loaded(kind, (40, 40), tmp_path)
    assert coarse_notes(loaded, loaded.network(size=(40, 40))) == []


def test_where_no_finer_layer_carries_everything_none_is_named():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    loaded = wrap_module(module)
    (note,) = coarse_notes(loaded, loaded.network(size=(24, 24)))
    assert "3 x 3 cells only" in note
    assert "--layer" not in note


def test_a_layer_that_was_asked_for_is_warned_of_without_another(tmp_path):
    loaded = wrap_module(_Stages())
    (note,) = coarse_notes(loaded, loaded.network("add", size=(24, 24)))
    assert "--layer" not in note
