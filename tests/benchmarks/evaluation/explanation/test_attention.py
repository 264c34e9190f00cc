"""A class token's attention is found in the graph, and only where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldcam.benchmarks.evaluation.explanation.methods import find_class_attention
from foldcam.export.networks.torch_cut import TorchNetwork

SIZE = (8, 12)
GRID = (2, 3)


class Tokens(nn.Module):
    """Patches of 4 x 4 pixels, one attention of two heads, and the first `queries` tokens."""

    def __init__(self, prefix: int, mean: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Parameter(torch.randn(1, prefix, 8))
        self.qkv = nn.Linear(8, 24)
        self.mean = mean

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(image.shape[0], -1, -1), tokens], dim=1)
        split = self.qkv(tokens).reshape(image.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
        return weights, weights @ value

    def forward(self, image: Tensor) -> Tensor:
        mixed = self.heads(image)[1].transpose(1, 2).flatten(2)
        return mixed.mean(dim=1) if self.mean else mixed[:, 0]


@pytest.mark.parametrize("prefix", [1, 3])
def test_it_is_the_mean_over_heads_of_the_first_query(prefix: int) -> None:
    module = Tokens(prefix)
    model = TorchNetwork(module, SIZE).to_onnx()
    found = find_class_attention(model, SIZE, GRID)
    assert found is not None
    images = torch.randn(3, 3, *SIZE)
    with torch.no_grad():
        weights = module.heads(images)[0][:, :, 0, prefix:].mean(dim=1).reshape(3, *GRID)
    np.testing.assert_allclose(found(images.numpy()), weights.numpy(), atol=1e-5)


def test_patches_alone_have_no_class_token() -> None:
    model = TorchNetwork(Tokens(0, mean=True), SIZE).to_onnx()
    assert find_class_attention(model, SIZE, GRID) is None


def test_a_network_without_attention_has_none() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    assert find_class_attention(TorchNetwork(module, SIZE).to_onnx(), SIZE, GRID) is None
