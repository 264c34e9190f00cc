"""A backbone with a linear projection: the embedding network that `foldcam train` makes."""

from __future__ import annotations

import torch
from torch import nn

from foldcam.runtime.images.preprocess import Preprocessing


class ProjectedNetwork(nn.Module):
    """`normalize(W f(image))`: a backbone's pooled features, projected to size D.

    The projection has no bias and starts orthogonal: it keeps angles, so that the
    pretrained features' neighborhoods survive the first step.

    Args:
        backbone: image `float32 [N, 3, H, W]` -> features `[N, F]`, not normalised.
        features: `F`.
        size: `D`.
        preprocessing: the preprocessing of the backbone.
    """

    def __init__(
        self, backbone: nn.Module, features: int, size: int, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(features, size, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.preprocessing = preprocessing

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, H, W]` -> embedding `[N, D]` of norm 1."""
        return nn.functional.normalize(self.projection(self.backbone(image)), dim=1)
