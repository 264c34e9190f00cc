"""The architectures that are tried: built from their configuration, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from foldcam.benchmarks.studies.architectures import small

_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 112,
    "patch_size": 16,
}
_STAGES: dict[str, Any] = {"hidden_sizes": [16, 32, 48], "depths": [1, 1, 1]}
_WINDOWS: dict[str, Any] = {
    "image_size": 112,
    "patch_size": 4,
    "embed_dim": 48,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 7,
}


@dataclass(frozen=True)
class Architecture:
    """One kind of embedding network."""

    what: str  # its peculiarity, in a few words
    make: Callable[[], nn.Module]  # builds it with random weights
    size: tuple[int, int] = (112, 112)  # `(height, width)` of its input in pixels
    output: str | None = None  # its output that is the embedding, where several could be


def _without_repeats(network: nn.Module) -> nn.Module:
    """A network whose configuration does not say how deep it is, with one block of each kind.

    Args:
        network: MobileNetV2 or MobileViT of transformers.
    """
    for blocks in [each for each in network.modules() if isinstance(each, nn.ModuleList)]:
        kinds = [repr(block) for block in blocks]
        for place in reversed(range(len(kinds))):
            if kinds[place] in kinds[:place]:
                del blocks[place]
    return network


def architectures() -> dict[str, Architecture]:
    """Every architecture by name; needs transformers (extra `dev`)."""
    # The models alone: nothing is fetched, and no image processor is imported.
    import transformers as t

    return {
        "ResNet": Architecture(
            "residual blocks, pooled output [N, D, 1, 1]",
            lambda: t.ResNetModel(t.ResNetConfig(embedding_size=16, **_STAGES)),
        ),
        "RegNet": Architecture(
            "grouped convolutions, squeeze and excitation",
            lambda: t.RegNetModel(t.RegNetConfig(embedding_size=16, groups_width=8, **_STAGES)),
        ),
        "MobileNetV2": Architecture(
            "inverted residuals, D = 1280",
            lambda: _without_repeats(
                t.MobileNetV2Model(t.MobileNetV2Config(image_size=112, depth_multiplier=0.35))
            ),
        ),
        "EfficientNet": Architecture(
            "squeeze and excitation, SiLU",
            lambda: t.EfficientNetModel(
                t.EfficientNetConfig(
                    image_size=112,
                    width_coefficient=0.5,
                    depth_coefficient=1.0,
                    kernel_sizes=[3, 5, 5, 3],
                    in_channels=[32, 16, 40, 112],
                    out_channels=[16, 40, 112, 320],
                    strides=[2, 2, 2, 2],
                    num_block_repeats=[1, 1, 1, 1],
                    expand_ratios=[1, 6, 6, 6],
                    hidden_dim=640,
                    initializer_range=0.3,
                )
            ),
        ),
        "ConvNeXt": Architecture(
            "channels last inside its blocks, LayerNorm after the pool",
            lambda: t.ConvNextModel(t.ConvNextConfig(num_stages=3, **_STAGES)),
        ),
        "MobileViT": Architecture(
            "convolutions, and attention on unfolded patches",
            lambda: _without_repeats(
                t.MobileViTModel(
                    t.MobileViTConfig(
                        image_size=160,
                        hidden_sizes=[16, 24, 32],
                        neck_hidden_sizes=[8, 12, 16, 20, 24, 28, 32],
                    )
                )
            ),
            (160, 160),
        ),
        "FocalNet": Architecture(
            "tokens without attention",
            lambda: t.FocalNetModel(
                t.FocalNetConfig(
                    image_size=112,
                    embed_dim=32,
                    depths=[1, 1, 1],
                    focal_levels=[2, 2, 2],
                    focal_windows=[3, 3, 3],
                )
            ),
        ),
        "ViT": Architecture(
            "class token, pooler",
            lambda: t.ViTModel(t.ViTConfig(**_TRANSFORMER)),
        ),
        "ViT 160 x 96": Architecture(
            "class token, an input that is not square",
            lambda: t.ViTModel(t.ViTConfig(**{**_TRANSFORMER, "image_size": [160, 96]})),
            (160, 96),
        ),
        "DeiT": Architecture(
            "class token and distillation token",
            lambda: t.DeiTModel(t.DeiTConfig(**_TRANSFORMER)),
        ),
        "DINOv2 with registers": Architecture(
            "class token and four registers",
            lambda: t.Dinov2WithRegistersModel(
                t.Dinov2WithRegistersConfig(**_TRANSFORMER, num_register_tokens=4)
            ),
        ),
        "DINOv3": Architecture(
            "rotary positions, class token and registers",
            lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**_TRANSFORMER, num_register_tokens=4)),
        ),
        "CLIP": Architecture(
            "class token, projection",
            lambda: t.CLIPVisionModelWithProjection(
                t.CLIPVisionConfig(**_TRANSFORMER, projection_dim=32)
            ),
        ),
        "SigLIP": Architecture(
            "tokens pooled by attention",
            lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**_TRANSFORMER)),
        ),
        "BEiT": Architecture(
            "mean of the patch tokens",
            lambda: t.BeitModel(t.BeitConfig(**_TRANSFORMER)),
        ),
        "Swin": Architecture(
            "shifted windows, patches merged, mean of the tokens",
            lambda: t.SwinModel(t.SwinConfig(**_WINDOWS)),
        ),
        "SwinV2": Architecture(
            "windows with cosine attention",
            lambda: t.Swinv2Model(t.Swinv2Config(**_WINDOWS)),
        ),
        "Hiera": Architecture(
            "tokens pooled between stages",
            lambda: t.HieraModel(
                t.HieraConfig(
                    image_size=[128, 128],
                    embed_dim=32,
                    depths=[1, 1, 1],
                    num_heads=[1, 2, 4],
                    num_query_pool=2,
                    masked_unit_attention=[True, True, False],
                )
            ),
            (128, 128),
        ),
        "BatchNorm neck": Architecture(
            "re-identification, 256 x 128, normalised, D = 32", small.NeckNetwork, (256, 128)
        ),
        "parts": Architecture(
            "re-identification, six stripes pooled apart", small.PartNetwork, (256, 128)
        ),
        "branches": Architecture(
            "re-identification, branches with layers of their own", small.BranchNetwork, (256, 128)
        ),
        "global depthwise": Architecture("face, PReLU", small.FaceNetwork),
        "flatten": Architecture("face, dropout, one large linear layer", small.FlattenNetwork),
        "generalised mean": Architecture(
            "retrieval, learned power, normalised twice", small.GeneralizedMeanNetwork
        ),
        "attention pooling": Architecture("one weight per position", small.AttentionNetwork),
        "gate and hidden layer": Architecture(
            "squeeze and excitation, D = 4096", small.GatedNetwork
        ),
        "channels last": Architecture("feature map [N, h, w, K]", small.ChannelsLastNetwork),
        "dictionary": Architecture("returns a dictionary", small.DictionaryNetwork),
        "tuple": Architecture("returns a tuple, normalised", small.TupleNetwork),
        "dataclass": Architecture("returns a dataclass", small.DataclassNetwork),
    }
