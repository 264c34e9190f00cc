"""A residual network and a transformer, small enough to be trained here.

No package of an index carries pretrained weights of these families, so they start from random
ones. What is measured of them is what quantizing changes, not how good they are.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from benchmarks.architectures.parity import settle
from runtime.preprocess import Preprocessing

SIZE = 128


class ResNetFeatures(nn.Module):
    """Four residual stages; image `float32 [N, 3, 128, 128]` -> pooled `[N, 256]`."""

    preprocessing = Preprocessing(SIZE, SIZE)

    def __init__(self) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        self.net = ResNetModel(
            ResNetConfig(
                embedding_size=32,
                hidden_sizes=[32, 64, 128, 256],
                depths=[2, 2, 2, 2],
                layer_type="basic",
            )
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pooled features."""
        return cast(torch.Tensor, self.net(image).pooler_output.flatten(1))


class ViTFeatures(nn.Module):
    """Six blocks of attention; image `float32 [N, 3, 128, 128]` -> mean token `[N, 128]`."""

    preprocessing = Preprocessing(SIZE, SIZE)

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        self.net = ViTModel(
            ViTConfig(
                image_size=SIZE,
                patch_size=16,
                hidden_size=128,
                num_hidden_layers=6,
                num_attention_heads=4,
                intermediate_size=256,
            ),
            add_pooling_layer=False,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mean of the patch tokens."""
        tokens = self.net(image).last_hidden_state[:, 1:]
        return cast(torch.Tensor, tokens.mean(1))


def resnet() -> nn.Module:
    """A residual network with seeded random weights and the statistics of noise."""
    torch.manual_seed(0)
    module = ResNetFeatures()
    settle(module, (SIZE, SIZE))
    return module


def vit() -> nn.Module:
    """A vision transformer with seeded random weights."""
    torch.manual_seed(0)
    return ViTFeatures().eval()
