"""The head-only product equals full autograd, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foldcam.export.banks.grad_weights import (
    head_traits,
    keep_channels,
    pull_back,
    pull_back_anywhere,
)
from foldcam.runtime.system.errors import FoldcamError

#        name               linear positional
HEADS = [
    ("PlainConv", True, False),
    ("MlpHead", False, False),
    ("FlattenHead", True, True),
    ("GlobalDepthwise", True, True),
    ("BottleNeck", True, False),
    ("NeckNormalized", True, False),
    ("SqueezeExcite", True, False),
    ("RowGate", False, False),
    ("Training", True, False),
]


@pytest.mark.parametrize("name", [head[0] for head in HEADS if head[0] != "RowGate"])
def test_product_equals_autograd_through_the_eager_module(name, networks, cut):
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    images, directions = torch.randn(4, 3, *networks.SIZE), torch.randn(4, 3)
    kept = module.feature(images).detach().requires_grad_(True)
    (module.head(kept).flatten(1) * directions).sum().backward()
    network = cut(name)
    activations = network.forward(images)
    torch.testing.assert_close(network.pull_back_map(activations, directions), kept.grad)
    torch.testing.assert_close(
        network.pull_back(activations, directions), kept.grad.mean(dim=(2, 3))
    )


def test_grad_weights_of_an_average_pool_are_the_weights_over_the_area(networks, cut):
    """By hand: z = W mean(A) + b, so a = W^T v / (h w)."""
    network = cut("PlainConv")
    torch.manual_seed(0)
    weight = networks.PlainConv().fc.weight.detach()
    activations = network.forward(torch.randn(2, 3, *networks.SIZE))
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, -1.0]])
    expected = directions @ weight / 35
    torch.testing.assert_close(network.pull_back(activations, directions), expected)


@pytest.mark.parametrize("name", [head[0] for head in HEADS])
def test_batch_rows_do_not_leak(name, networks, cut):
    network = cut(name)
    images, directions = torch.randn(5, 3, *networks.SIZE), torch.randn(5, 3)
    together = network.pull_back(network.forward(images), directions)
    alone = [
        network.pull_back(network.forward(images[row : row + 1]), directions[row : row + 1])
        for row in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(("name", "linear", "positional"), HEADS)
def test_traits_of_the_head_are_recognised(name, linear, positional, networks, cut):
    traits = head_traits(cut(name), cut(name).forward(torch.randn(6, 3, *networks.SIZE)))
    assert (traits.linear, traits.positional) == (linear, positional)


def test_a_maximum_pool_is_not_taken_for_linear(networks, cut):
    activations = cut("TwoPools").forward(torch.randn(6, 3, *networks.SIZE))
    assert not head_traits(cut("TwoPools"), activations).linear


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_a_linear_head_pulls_any_number_of_directions_back_anywhere(count, networks, cut):
    network = cut("BottleNeck")
    directions = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    activations = network.forward(torch.randn(count, 3, *networks.SIZE))
    probe = network.forward(torch.randn(4, 3, *networks.SIZE))
    expected = pull_back(network, activations, directions)
    got = pull_back_anywhere(network, probe, directions)
    assert got.shape == (count, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_a_gradient_that_overflows_is_refused(networks, cut):
    activations = cut("PlainConv").forward(torch.randn(1, 3, *networks.SIZE))
    with pytest.raises(FoldcamError, match="not finite"):
        pull_back(cut("PlainConv"), activations, np.full((1, 3), np.inf, np.float32))


def test_channel_rule_drops_the_evidence_against():
    weights = np.array([[1.0, -2.0, 0.0]], np.float32)
    assert keep_channels(weights, "all").tolist() == [[1.0, -2.0, 0.0]]
    assert keep_channels(weights, "positive").tolist() == [[1.0, 0.0, 0.0]]
