"""Grad-weights of a head whose Jacobian is the same at every image, but for a factor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foldcam.export.banks.grad_weights import pull_back, pull_back_anywhere
from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork
from foldcam.export.networks.torch_cut import TorchNetwork

SIZE = (8, 12)


class Pooled(nn.Module):
    """Pool, perhaps a normalisation whose scale each image has of its own, linear."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map, self.norm, self.fc = nn.Conv2d(3, 5, 4, 4), norm, nn.Linear(5, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.map(image).relu().mean((2, 3))))


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("norm", [nn.Identity(), nn.LayerNorm(5)])
def test_all_rows_have_one_unit_whatever_image_they_were_taken_at(norm, summed):
    network = TorchNetwork(Pooled(norm), SIZE)
    network = SummandNetwork(network) if summed else network
    images = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    known = network.forward(images * torch.tensor([0.5, 1, 2, 4])[:, None, None, None])
    assert network.head_is_linear(known)
    directions = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    found = pull_back_anywhere(network, known, directions)
    for row, direction in enumerate(directions):
        everywhere = pull_back(network, known, np.repeat(direction[None], 4, axis=0))
        factors = np.linalg.norm(everywhere, axis=1) / np.linalg.norm(everywhere[0])
        np.testing.assert_allclose(found[row], everywhere[0] * factors.mean(), rtol=1e-4)
        assert (factors.max() / factors.min() > 1.01) == isinstance(norm, nn.LayerNorm)
