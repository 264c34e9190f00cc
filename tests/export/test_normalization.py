"""The final normalisation's input is found in torch, and what only looks like one is not."""

from __future__ import annotations

import logging

import pytest
import torch

from export.onnx_search import find_normalization
from export.torch_network import TorchNetwork

NORMALIZED = [
    "Normalized",
    "DividedByNorm",
    "DividedInPlace",
    "ReciprocalRoot",
    "ScaledNormalized",
    "LearnedScale",
    "NormalizedThenView",
    "NeckNormalized",
]
NOT_NORMALIZED = ["PlainConv", "BottleNeck", "RowGate", "Softmax"]


@pytest.mark.parametrize("name", NORMALIZED)
def test_the_head_ends_before_the_normalisation(name, networks, cut):
    network = cut(name)
    assert network.normalized
    assert network.head_before_normalization
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    images = torch.randn(3, 3, *networks.SIZE)
    activations = network.forward(images)
    # The end of the head is z itself: a scale-free or normalised end would differ.
    feature_map = activations.feature_map.clone().requires_grad_(True)
    directions = torch.randn(3, 3)
    z = module.head(feature_map).flatten(1)
    (expected,) = torch.autograd.grad((z * directions).sum(), feature_map)
    torch.testing.assert_close(network.pull_back_map(activations, directions), expected)


@pytest.mark.parametrize("name", NOT_NORMALIZED)
def test_what_is_no_normalisation_is_part_of_the_head(name, networks, cut):
    network = cut(name)
    assert not network.normalized
    assert network.head_before_normalization
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    images = torch.randn(3, 3, *networks.SIZE)
    directions = torch.randn(3, 3)
    activations = network.forward(images)
    expected = _gradient_at_map(module, images, directions)
    torch.testing.assert_close(network.pull_back_map(activations, directions), expected)


def test_the_gradient_along_the_embedding_survives(networks, cut):
    """Through the normalisation it would be exactly zero."""
    network = cut("Normalized")
    activations = network.forward(torch.randn(2, 3, *networks.SIZE))
    along = network.pull_back(activations, activations.embedding)
    assert (along.abs().amax(dim=1) > 1e-3).all()


def test_a_normalisation_that_is_not_found_is_said(networks, caplog):

    class Hidden(networks.PlainConv):
        def forward(self, image):
            embedding = super().forward(image)
            # A norm by another name, and written through a concatenation.
            unit = embedding / embedding.norm(dim=1, keepdim=True)
            return torch.cat([unit[:, :1], unit[:, 1:]], dim=1)

    with caplog.at_level(logging.WARNING):
        network = TorchNetwork(Hidden(), networks.SIZE)
    assert network.normalized
    assert not network.head_before_normalization
    assert "place where it happens was not found" in caplog.text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Normalized", True),
        ("ReciprocalRoot", True),
        ("ScaledNormalized", True),
        ("LearnedScale", True),
        ("NormalizedThenView", True),
        ("RowGate", False),
        ("Softmax", False),
    ],
)
def test_the_onnx_search_agrees_on_what_torch_exports(name, found, cut):
    graph = cut(name).to_onnx().graph
    assert (find_normalization(graph, "embedding") is not None) == found


def _gradient_at_map(module, images, directions):
    """Full autograd in the eager module, caught at its feature map."""
    kept = []

    def feature(image):
        value = type(module).feature(module, image).detach().requires_grad_(True)
        kept.append(value)
        return value

    module.feature = feature
    (module(images) * directions).sum().backward()
    return kept[0].grad
