"""The final normalisation's input is found in torch, and what only looks like one is not."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.grafting.fold import fold
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.normalization import find_normalization, has_unit_norm
from foldcam.runtime.contract.schema import Origin

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


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Normalized", True),
        # Longer or shorter than 1, or not certainly of that length.
        ("ScaledNormalized", False),
        ("LearnedScale", False),
        ("PlainConv", False),
        ("RowGate", False),
        ("Softmax", False),
    ],
)
def test_an_embedding_of_norm_one_is_not_normalised_again(
    name, unit, networks, cut, random_bank, preprocessing
):
    model = cut(name).to_onnx()
    assert has_unit_norm(model.graph, "embedding") == unit
    network = cut(name)
    made = fold(
        model,
        random_bank(9, network.embedding_size, network.feature_map_shape[0]),
        preprocessing=preprocessing,
        layer="x",
        origin=Origin("", "", "", "", "", ""),
        versions={},
    )
    assert ("foldcam.unit_embedding" in {node.name for node in made.graph.node}) != unit


@pytest.mark.parametrize(
    ("nodes", "unit"),
    [
        ([("LpNormalization", ["x"], "embedding", {"p": 2, "axis": 1})], True),
        ([("LpNormalization", ["x"], "embedding", {"p": 1, "axis": 1})], False),
        ([("LpNormalization", ["x"], "embedding", {"p": 2, "axis": 0})], False),
        ([("ReduceL2", ["x", "one"], "n", {}), ("Div", ["x", "n"], "embedding", {})], True),
        # Over the batch, of another tensor, with a bound that shortens, or upside down.
        ([("ReduceL2", ["x", "zero"], "n", {}), ("Div", ["x", "n"], "embedding", {})], False),
        ([("ReduceL2", ["y", "one"], "n", {}), ("Div", ["x", "n"], "embedding", {})], False),
        ([("ReduceL2", ["x", "one"], "n", {}), ("Div", ["n", "x"], "embedding", {})], False),
        ([("Max", ["m", "large"], "n", {}), ("Div", ["x", "n"], "embedding", {})], False),
        ([("Clip", ["m", "tiny"], "n", {}), ("Div", ["x", "n"], "embedding", {})], True),
        ([("Clip", ["m", "tiny", "large"], "n", {}), ("Div", ["x", "n"], "embedding", {})], False),
    ],
)
def test_only_a_certain_norm_of_one_counts(nodes, unit):
    constants = {"zero": [0], "one": [1], "tiny": 1e-12, "large": 5.0}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("ReduceL2", ["x", "one"], ["m"]),
            *(onnx.helper.make_node(op, ins, [out], **more) for op, ins, out, more in nodes),
        ],
        "g",
        [],
        [],
        [
            onnx.numpy_helper.from_array(np.asarray(value), name)
            for name, value in constants.items()
        ],
    )
    assert has_unit_norm(graph, "embedding") == unit


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
