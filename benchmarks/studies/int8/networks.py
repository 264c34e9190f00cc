"""A residual network and a transformer on the features of a pretrained front.

No package of an index carries pretrained weights of residual networks or transformers, and from
random weights they learn next to nothing from a few hundred photographs: the embeddings stay
nearly equal, and what rounding changes of such heatmaps is chance. So both stand on the first
eleven blocks of EfficientNet-Lite0, which carry ImageNet weights, and only what is theirs
starts from random ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from foldcam.export.datasets import Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.export.models.demo import PREPROCESSING, pretrained_backbone
from foldcam.runtime.images.preprocess import Preprocessing

SIZE = 128
_BLOCKS, _CHANNELS, _CELLS = 11, 112, 8
LAST_OF_FRONT = f"backbone.front.blocks.{_BLOCKS - 1}"
"""The last layer that is pretrained, as `--train-from` names it."""
# Photographs from which batch normalisations take their statistics.
_STATISTICS = 128
_RECIPE = Preprocessing(SIZE, SIZE, mean=PREPROCESSING.mean, std=PREPROCESSING.std)


class Front(nn.Module):
    """Image `float32 [N, 3, 128, 128]` -> features `[N, 112, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        whole: Any = pretrained_backbone()
        self.stem, self.norm, self.activation = whole._conv_stem, whole._bn0, whole._swish
        self.blocks = nn.ModuleList(list(whole._blocks)[:_BLOCKS])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of stride 16."""
        features: torch.Tensor = self.activation(self.norm(self.stem(image)))
        for block in self.blocks:
            features = block(features)
        return features


class ResNetFeatures(nn.Module):
    """Two stages of residual blocks; image -> pooled and batch-normalised `[N, 256]`.

    The neck (Luo et al. 2019, "Bag of Tricks and a Strong Baseline for Deep Person
    Re-identification") takes out what all pooled features share: behind a ReLU that is nearly all
    of a random network's output, and embeddings that are nearly equal teach it nothing.
    """

    preprocessing = _RECIPE

    def __init__(self) -> None:
        super().__init__()
        from transformers import ResNetConfig
        from transformers.models.resnet.modeling_resnet import ResNetStage

        config = ResNetConfig(layer_type="basic")
        self.front = Front()
        self.body = nn.Sequential(
            ResNetStage(config, _CHANNELS, 192, stride=1, depth=2),
            ResNetStage(config, 192, 256, stride=1, depth=1),
        )
        self.neck = nn.BatchNorm1d(256)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pooled features."""
        return cast(torch.Tensor, self.neck(self.body(self.front(image)).mean((2, 3))))


class ViTFeatures(nn.Module):
    """Four blocks of attention over the cells of the front; image -> mean token `[N, 192]`."""

    preprocessing = _RECIPE

    def __init__(self) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTModel

        self.front = Front()
        self.body = ViTModel(
            ViTConfig(
                image_size=_CELLS,
                patch_size=1,
                num_channels=_CHANNELS,
                hidden_size=192,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=384,
            ),
            add_pooling_layer=False,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mean of the cells' tokens."""
        tokens = self.body(self.front(image)).last_hidden_state[:, 1:]
        return cast(torch.Tensor, tokens.mean(1))


def resnet() -> nn.Module:
    """The residual network."""
    torch.manual_seed(0)
    return ResNetFeatures().eval()


def vit() -> nn.Module:
    """The transformer."""
    torch.manual_seed(0)
    return ViTFeatures().eval()


def settle(module: nn.Module, samples: Sequence[Sample]) -> None:
    """Give batch normalisations that were not pretrained the statistics of photographs.

    `foldcam train` keeps the statistics that it finds, which random weights do not have.

    Args:
        module: as `resnet` and `vit` make it.
        samples: of the training part; 128 of them, evenly spread, are read.
    """
    norms = [
        each
        for name, each in module.named_modules()
        if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d) and not name.startswith("front.")
    ]
    chosen = samples[:: max(1, len(samples) // _STATISTICS)]
    images = np.stack([_RECIPE.resized(read_picture(sample).image)[0] for sample in chosen])
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(torch.from_numpy(_RECIPE.normalized(images)))
    module.eval()
