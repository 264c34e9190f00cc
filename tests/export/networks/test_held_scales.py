"""Normalisations inside a head keep their values and are differentiated as a product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from foldcam.export.models.spec import load_model
from foldcam.export.networks.torch_cut import (
    TorchNetwork,
    layer_norm_with_held_scale,
    rms_norm_with_held_scale,
)

SIZE = (8, 8)


class _Network(nn.Module):
    """`[N, 6, 4, 4]`, averaged, normalised in the middle, projected."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.conv, self.fc = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 5, bias=False)
        self.norm = nn.LayerNorm(6)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.rms = nn.RMSNorm(6)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.conv(image)).mean((2, 3))
        if self.kind == "layer norm":
            x = self.norm(x)
        elif self.kind == "by hand":
            centred = x - x.mean(1, keepdim=True)
            x = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
        elif self.kind == "rms norm":
            x = self.rms(x)
        elif self.kind == "rms by hand":
            x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        elif self.kind == "normalise":
            x = functional.normalize(x)
        elif self.kind == "gate":
            x = x * torch.sigmoid(x.mean(1, keepdim=True))
        return self.fc(x)


def _expected(network: _Network, activations: Tensor, direction: Tensor) -> Tensor:
    """`W^T v` through what of the normalisation is linear, per image up to a factor."""
    pulled = direction @ network.fc.weight
    if network.kind == "layer norm":
        pulled = pulled * network.norm.weight
    if network.kind in ("layer norm", "by hand"):
        pulled = pulled - pulled.mean(1, keepdim=True)
    return pulled


KINDS = ["layer norm", "by hand", "rms norm", "rms by hand", "normalise"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_held_and_the_rest_is_linear(kind):
    module = _Network(kind).eval()
    network = TorchNetwork(module, SIZE)
    images = torch.randn(4, 3, *SIZE)
    activations = network.forward(images)
    torch.testing.assert_close(activations.embedding, module(images))
    direction = torch.randn(1, 5).expand(4, -1)
    pulled = network.pull_back(activations, direction)
    expected = _expected(module, activations.feature_map, direction)
    cosines = functional.cosine_similarity(pulled, expected)
    torch.testing.assert_close(cosines, torch.ones(4))
    assert network.head_is_linear(activations)


@pytest.mark.parametrize("kind", KINDS)
def test_without_holding_it_the_gradient_is_torchs_own(kind):
    module = _Network(kind).eval()
    network = TorchNetwork(module, SIZE, hold=False)
    images = torch.randn(4, 3, *SIZE)
    activations = network.forward(images)
    direction = torch.randn(4, 5)
    pulled = network.pull_back(activations, direction)
    expected = _expected(module, activations.feature_map, direction)
    assert functional.cosine_similarity(pulled, expected).min() < 0.999
    assert not network.head_is_linear(activations)


def test_a_gate_is_no_normalisation():
    network = TorchNetwork(_Network("gate").eval(), SIZE)
    assert not network.head_is_linear(network.forward(torch.randn(4, 3, *SIZE)))


@pytest.mark.parametrize("affine", [True, False])
def test_the_values_are_those_of_torch(affine):
    value = torch.randn(3, 4, 7)
    weight, bias = (torch.randn(7), torch.randn(7)) if affine else (None, None)
    torch.testing.assert_close(
        layer_norm_with_held_scale(value, [7], weight, bias, 1e-3),
        functional.layer_norm(value, [7], weight, bias, 1e-3),
    )
    torch.testing.assert_close(
        rms_norm_with_held_scale(value, [4, 7]), functional.rms_norm(value, [4, 7])
    )
    torch.testing.assert_close(
        rms_norm_with_held_scale(value, [7], weight, 1e-2),
        functional.rms_norm(value, [7], weight, 1e-2),
    )


# torch's older exporter does not know RMSNorm.
EXPORTED = [(dynamo, kind) for dynamo in (False, True) for kind in KINDS]
EXPORTED.remove((False, "rms norm"))


@pytest.mark.parametrize(("dynamo", "kind"), EXPORTED)
def test_an_onnx_file_holds_the_same_scales(dynamo, kind, tmp_path):
    module = _Network(kind).eval()
    path = tmp_path / "network.onnx"
    options = {"dynamo": dynamo, "opset_version": 18 if dynamo else 17}
    torch.onnx.export(module, (torch.zeros(1, 3, *SIZE),), str(path), **options)
    network = load_model(str(path)).network(size=SIZE)
    images = torch.randn(4, 3, *SIZE)
    activations = network.forward(images)
    torch.testing.assert_close(activations.embedding, module(images), rtol=1e-4, atol=1e-5)
    direction = torch.randn(1, 5).expand(4, -1)
    pulled = network.pull_back(activations, direction)
    expected = _expected(module, activations.feature_map, direction)
    torch.testing.assert_close(functional.cosine_similarity(pulled, expected), torch.ones(4))
    assert network.head_is_linear(activations)


class _Token(nn.Module):
    """Ends in the layer norm of tokens, of which the first is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.mix = nn.Linear(16, 16)

    def forward(self, image: Tensor) -> Tensor:
        x = self.mix(self.conv(image).flatten(2)).transpose(1, 2)
        return self.norm(x)[:, 0]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_token_of_a_layer_norm_is_not_said_to_be_normalised(kind, tmp_path, caplog):
    module = _Token().eval()
    network = TorchNetwork(module, SIZE)
    if kind == "onnx":
        path = tmp_path / "token.onnx"
        torch.onnx.export(module, (torch.zeros(1, 3, *SIZE),), str(path), dynamo=False)
        network = load_model(str(path)).network(size=SIZE)
    assert not network.normalized
    assert network.head_before_normalization
    assert "was not found" not in caplog.text
