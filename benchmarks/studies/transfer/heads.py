"""EfficientNet-Lite0 under different heads, for which transfer is exact or is not."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from foldcam.export.models.demo import PREPROCESSING, pretrained_backbone

HEADS = ("linear", "mlp", "depthwise", "flatten", "generalised_mean", "attention", "layernorm")
"""Linear over the average: exact; a LayerNorm in between too, with its scale held constant.
Hidden layer, generalised mean: the Jacobian depends on the image; attention pooling: on the
image's weights, which the summands hold. Flatten, global depthwise convolution: positions are
weighted differently."""

_CHANNELS, _MAP = 1280, 7
_SIZE = 128
_NARROW = 64


class HeadedNetwork(nn.Module):
    """Feature map `[N, 1280, 7, 7]` at 224 x 224, then one of `HEADS`, normalised.

    Args:
        head: one of `HEADS`.
    """

    def __init__(self, head: str) -> None:
        super().__init__()
        self.backbone = pretrained_backbone()
        self.preprocessing = PREPROCESSING
        self.head = _HEADS[head]()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, 224, 224]` -> embedding `[N, 128]` of norm 1."""
        feature_map = cast(Any, self.backbone).extract_features(image)
        return nn.functional.normalize(self.head(feature_map), dim=1)


class _Average(nn.Module):
    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return feature_map.mean(dim=(2, 3))


class _GeneralisedMean(nn.Module):
    """`(mean A^p)^(1/p)` with a learned `p` (Radenovic et al., TPAMI 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        powers = feature_map.clamp(min=1e-6) ** self.power
        return powers.mean(dim=(2, 3)) ** (1 / self.power)


class _Attention(nn.Module):
    """Positions weighted by a softmax over a learned score."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(_CHANNELS, 1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        positions = feature_map.flatten(2).transpose(1, 2)
        weights = torch.softmax(self.score(positions), dim=1)
        return (weights * positions).sum(dim=1)


_HEADS = {
    "linear": lambda: nn.Sequential(_Average(), nn.Linear(_CHANNELS, _SIZE, bias=False)),
    "mlp": lambda: nn.Sequential(
        _Average(), nn.Linear(_CHANNELS, 256), nn.ReLU(), nn.Linear(256, _SIZE)
    ),
    "layernorm": lambda: nn.Sequential(
        _Average(), nn.LayerNorm(_CHANNELS), nn.Linear(_CHANNELS, _SIZE)
    ),
    "generalised_mean": lambda: nn.Sequential(
        _GeneralisedMean(), nn.Linear(_CHANNELS, _SIZE, bias=False)
    ),
    "attention": lambda: nn.Sequential(_Attention(), nn.Linear(_CHANNELS, _SIZE, bias=False)),
    "flatten": lambda: nn.Sequential(
        nn.Conv2d(_CHANNELS, _NARROW, 1), nn.Flatten(), nn.Linear(_NARROW * _MAP * _MAP, _SIZE)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, _MAP, groups=_CHANNELS, bias=False),
        nn.Flatten(),
        nn.Linear(_CHANNELS, _SIZE),
    ),
}
