"""What depends on constants alone is computed once, unless that would make the file large."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from foldcam.export.models.spec import load_model
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.rewrites import fold_constants
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.verification.check.checker import check_model
from foldcam.export.verification.check.targets import find_targets

# So many that torch's exporter leaves their positions to be computed.
CHANNELS = 192


class _Positions(nn.Module):
    """Tokens with positions learned at another size, as a vision transformer's."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, CHANNELS, 14, 14))
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, image):
        patches = self.patches(image)
        places = nn.functional.interpolate(
            self.positions, size=patches.shape[2:], mode="bicubic", antialias=False
        )
        return self.norm((patches + places).flatten(2).transpose(1, 2)).mean(1)


def _kinds(model):
    return {node.op_type for node in model.graph.node}


def test_positions_that_a_torch_network_brings_to_its_size_are_a_constant(tmp_path):
    torch.manual_seed(0)
    module = _Positions().eval()
    model = TorchNetwork(module, (32, 32)).to_onnx(18)
    assert "Resize" not in _kinds(model)
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    (target,) = check_model(path, find_targets(["jetpack-6.2"])).targets
    assert not [finding for finding in target.findings if "Resize" in str(finding)]
    images = torch.randn(2, 3, 32, 32)
    (found,) = GraphSession(model, ["embedding"]).run(images.numpy())
    torch.testing.assert_close(torch.from_numpy(found), module(images), rtol=1e-4, atol=1e-5)


def test_positions_that_an_onnx_file_brings_to_its_size_are_a_constant(onnx_files, tmp_path):
    made = onnx_files.plain(
        [
            "Resize places,,,sizes -> fitted mode=cubic",
            "Add map,fitted -> placed",
            "GlobalAveragePool placed -> p",
            "Flatten p -> f",
            "Gemm f,w1 -> y",
        ],
        places=onnx_files.weights(5, 1, 4, 14, 14),
        sizes=np.array([1, 4, 5, 7], np.int64),
    )
    network = load_model(str(onnx_files.save(made, tmp_path))).network(size=onnx_files.SIZE)
    model = network.to_onnx(18)
    assert "Resize" not in _kinds(model)
    images = np.random.default_rng(0).normal(size=(1, 3, *onnx_files.SIZE)).astype(np.float32)
    (expected,) = GraphSession(made, ["y"]).run(images)
    (found,) = GraphSession(model, ["embedding"]).run(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rows", "stays"), [(8, False), (1 << 22, True)])
def test_a_constant_that_would_make_the_file_much_larger_stays_computed(rows, stays, onnx_files):
    made = onnx_files.graph(
        ["Neg row -> negative", "Expand negative,size -> large", "ReduceSum x -> s keepdims=0",
         "Mul large,s -> y"],
        {"row": np.ones((1, 2), np.float32), "size": np.array([rows, 2], np.int64)},
        17,
        outputs={"y": (rows, 2)},
    )  # fmt: skip
    before = made.ByteSize()
    fold_constants(made)
    assert ("Expand" in _kinds(made)) == stays
    assert made.ByteSize() < before + 1000
    onnx.checker.check_model(made, full_check=True)
