"""ONNX files exported from torch are cut and differentiated as their modules are."""

from __future__ import annotations

import pytest
import torch

from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.file import read_onnx

PARITY = [
    "PlainConv",
    "Normalized",
    "LearnedScale",
    "NormalizedThenView",
    "NeckNormalized",
    "SqueezeExcite",
    "FlattenHead",
    "GlobalDepthwise",
    "TwoPools",
    "MlpHead",
    "SharedActivation",
    "RowGate",
    "Training",
]


EXPORTS = {
    "torchscript, opset 11": {"dynamo": False, "opset_version": 11},
    "torchscript, opset 17, dynamic": {
        "dynamo": False,
        "opset_version": 17,
        "input_names": ["pixels"],
        "dynamic_axes": {"pixels": {0: "n"}},
    },
    "dynamo, opset 18": {"dynamo": True, "opset_version": 18},
}


@pytest.mark.parametrize("exported", EXPORTS)
@pytest.mark.parametrize("name", PARITY)
def test_a_file_exported_from_torch_is_cut_as_the_module_is(
    name, exported, networks, cut, tmp_path, random_images, export_quietly
):
    torch.manual_seed(0)
    path = tmp_path / "network.onnx"
    export_quietly(getattr(networks, name)().eval(), path, networks.SIZE, EXPORTS[exported])
    found, wanted = OnnxNetwork(read_onnx(path), networks.SIZE), cut(name)
    images, directions = random_images(4, networks.SIZE), random_images(1, (4, 1))[0, :, :, 0].T
    ours, theirs = found.forward(images), wanted.forward(images)
    torch.testing.assert_close(ours.feature_map, theirs.feature_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.pull_back(ours, directions),
        wanted.pull_back(theirs, directions),
        rtol=1e-4,
        atol=1e-6,
    )
    assert found.normalized == wanted.normalized
    assert found.head_before_normalization == wanted.head_before_normalization


class _NormInside(torch.nn.Module):
    """Pooled, normalised in the middle, projected."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.fc = torch.nn.Conv2d(3, 6, 2, 2), torch.nn.Linear(6, 5, bias=False)
        self.norm = torch.nn.LayerNorm(6)
        torch.nn.init.normal_(self.norm.weight)

    def forward(self, image):
        x = torch.relu(self.conv(image)).mean((2, 3))
        if self.kind == "layer norm":
            x = self.norm(x)
        elif self.kind == "normalise":
            x = torch.nn.functional.normalize(x)
        elif self.kind == "root mean square":
            x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        elif self.kind == "gate":
            x = x * torch.sigmoid(x.mean(1, keepdim=True))
        return self.fc(x)


# Before opset 17 a layer norm is written in steps, later as one operator.
@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("kind", ["layer norm", "normalise", "root mean square", "gate"])
def test_a_normalisation_inside_the_head_is_held_as_in_torch(
    kind, opset, networks, tmp_path, random_images, export_quietly
):
    torch.manual_seed(0)
    module, path = _NormInside(kind).eval(), tmp_path / "network.onnx"
    export_quietly(module, path, networks.SIZE, {"dynamo": False, "opset_version": opset})
    ours, theirs = OnnxNetwork(read_onnx(path), networks.SIZE), TorchNetwork(module, networks.SIZE)
    images = random_images(4, networks.SIZE)
    directions = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    found = ours.pull_back(ours.forward(images), directions)
    expected = theirs.pull_back(theirs.forward(images), directions)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    not_held = TorchNetwork(module, networks.SIZE, hold=False)
    other = not_held.pull_back(not_held.forward(images), directions)
    held = kind != "gate"
    assert (not torch.allclose(found, other, rtol=1e-3, atol=1e-6)) == held
