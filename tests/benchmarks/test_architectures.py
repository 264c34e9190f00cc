"""Every architecture of the zoo is exported, equals torch, and builds with TensorRT RTX."""

from __future__ import annotations

import json

import pytest

from foldcam.benchmarks.studies.architectures.study import (
    RESULT,
    failed,
    markdown_table,
    try_architecture,
)
from foldcam.benchmarks.studies.tables import RESULTS

pytest.importorskip("transformers", reason="needs transformers: pip install foldcam[dev]")

from foldcam.benchmarks.studies.architectures.zoo import architectures

# Where a person who knows the architecture would look: (K, h, w), and a part of its name.
FEATURE_MAPS = {
    "ResNet": ((48, 4, 4), "stages.3"),
    "RegNet": ((48, 4, 4), "stages.3"),
    "MobileNetV2": ((1280, 4, 4), "conv_1x1"),
    "EfficientNet": ((640, 3, 3), "top_activation"),
    "ConvNeXt": ((48, 3, 3), "stages.3"),
    "MobileViT": ((32, 4, 4), "conv_1x1_exp"),
    "FocalNet": ((128, 4, 4), "layernorm"),
    "ViT": ((48, 7, 7), "layers.2.layernorm_before"),
    "ViT 160 x 96": ((48, 10, 6), "layers.2.layernorm_before"),
    "DeiT": ((48, 7, 7), "layers.2.layernorm_before"),
    "DINOv2 with registers": ((48, 7, 7), "layer.2.norm1"),
    "DINOv3": ((48, 7, 7), "layer.2.norm1"),
    "CLIP": ((48, 7, 7), "layers.2.layer_norm1"),
    "SigLIP": ((48, 7, 7), "post_layernorm"),
    "BEiT": ((48, 7, 7), "pooler"),
    "Swin": ((96, 7, 7), "layernorm"),
    "SwinV2": ((96, 7, 7), "layernorm"),
    "Hiera": ((128, 4, 4), "stages.3"),
    "BatchNorm neck": ((32, 32, 16), "stem.2"),
    "parts": ((32, 32, 16), "stem.2"),
    "branches": ((32, 32, 16), "stem.2"),
    "global depthwise": ((32, 14, 14), "stem.2"),
    # What is summed are the outputs of the linear layer, position by position.
    "flatten": ((512, 14, 14), "drop"),
    "generalised mean": ((32, 14, 14), "pow"),
    "attention pooling": ((32, 14, 14), "mul"),
    "gate and hidden layer": ((32, 14, 14), "mul"),
    "channels last": ((40, 14, 14), "gelu"),
    "dictionary": ((32, 14, 14), "stem.2"),
    "tuple": ((32, 14, 14), "stem.2"),
    "dataclass": ((32, 14, 14), "stem.2"),
}


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_an_architecture_is_folded_and_equals_torch(name, tmp_path):
    row = try_architecture(architectures()[name], tmp_path)
    shape, part = FEATURE_MAPS[name]
    assert row.feature_map == shape
    assert part in row.layer
    assert row.passed
    assert row.embedding_cosine_worst > 0.99999
    assert row.heatmap_difference_worst < 1e-4
    assert row.same_neighbor == 1
    assert row.tensorrt_rtx is not False


def test_every_architecture_has_an_expectation_and_a_stored_result():
    stored = json.loads((RESULTS / "architectures" / RESULT).read_text(encoding="utf-8"))
    assert sorted(stored["architectures"]) == sorted(architectures()) == sorted(FEATURE_MAPS)
    assert not failed(stored)
    assert markdown_table(stored).count("\n") == len(FEATURE_MAPS) + 1
