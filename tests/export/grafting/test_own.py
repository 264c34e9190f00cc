"""Whose gradient is taken where nobody says: by what follows the sum over positions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foldcam.export.grafting.own import chosen_grad_weights
from foldcam.export.networks.cut import Network
from foldcam.export.networks.onnx_networks.summand_network import with_summands
from foldcam.export.networks.torch_cut import TorchNetwork


class Pooled(nn.Module):
    """Four channels, summed over 8 x 8 positions in one of several ways."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.hidden = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.last = nn.Linear(4, 3)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.head = head

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image).relu()
        if self.head == "learned power":
            powers = found.clamp(min=1e-6) ** self.power
            return self.last(powers.mean(dim=(2, 3)) ** (1 / self.power))
        if self.head == "fixed power":
            powers = found.clamp(min=1e-6) ** 3.0
            return self.last(powers.mean(dim=(2, 3), keepdim=True).flatten(1) ** (1 / 3))
        if self.head == "energy":
            return self.last((found**2).mean(dim=(2, 3)).sqrt())
        mean = found.mean(dim=(2, 3))
        if self.head == "hidden layer":
            mean = self.hidden(mean).relu()
        if self.head == "LayerNorm":
            mean = self.norm(mean)
        if self.head == "square":
            mean = mean**2
        return nn.functional.normalize(self.last(mean), dim=1)


def network(head: str) -> Network:
    found = with_summands(TorchNetwork(Pooled(head), (32, 32)))
    assert found.summands == "pool"
    return found


@pytest.mark.parametrize("head", ["learned power", "fixed power", "energy"])
def test_a_root_of_the_sum_takes_the_image_s_own_gradient(head: str) -> None:
    assert chosen_grad_weights(network(head), None) == "own"
    assert chosen_grad_weights(network(head), "transferred") == "transferred"


@pytest.mark.parametrize("head", ["linear", "hidden layer", "LayerNorm", "square"])
def test_other_pools_transfer_what_they_can(head: str) -> None:
    assert chosen_grad_weights(network(head), None) == "transferred"


def test_a_silent_channel_takes_all_the_weight_behind_a_root_and_none_at_the_own_sum() -> None:
    """Why: `s -> s^(1/p)` has a gradient without limit at 0."""
    cut = network("learned power")
    activations = cut.forward(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    # A bank's image that never shows the first channel.
    silent = activations.feature_map.clone()
    silent[:, 0] = 1e-18
    away = type(activations)(silent, activations.embedding, activations.context)
    direction = torch.ones(1, 3)
    shares = [
        (weights.abs() / weights.abs().sum())[0, 0]
        for weights in (cut.pull_back(away, direction), cut.pull_back(activations, direction))
    ]
    assert shares[0] > 0.99
    assert shares[1] < 0.9
