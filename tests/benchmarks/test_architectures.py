"""Every architecture of the zoo is exported, equals torch, and builds with TensorRT RTX."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest

from foldcam.benchmarks.studies.architectures.study import (
    RESULT,
    failed,
    markdown_table,
    try_architecture,
)
from foldcam.benchmarks.studies.tables import RESULTS
from foldcam.calibrate.placement import find_placement
from foldcam.calibrate.qdq import float16_steps, quantize, with_float16
from foldcam.calibrate.quality import Damage
from foldcam.calibrate.statistics import gather
from foldcam.calibrate.tuning import best_recipe, choose_steps
from foldcam.export.grafting.in_graph import contract_of
from foldcam.runtime.images.files import list_images, read_image

pytest.importorskip("transformers", reason="needs transformers: pip install foldcam[dev]")

from foldcam.benchmarks.studies.architectures.zoo import architectures

# Where a person who knows the architecture would look: (K, h, w), and a part of its name.
FEATURE_MAPS = {
    "ResNet": ((48, 7, 7), "stages.2"),
    "RegNet": ((48, 7, 7), "stages.2"),
    "MobileNetV2": ((1280, 4, 4), "conv_1x1"),
    "EfficientNet": ((640, 3, 3), "top_activation"),
    "ConvNeXt": ((48, 7, 7), "stages.2"),
    "MobileViT": ((32, 5, 5), "conv_1x1_exp"),
    "FocalNet": ((128, 7, 7), "layernorm"),
    "ViT": ((48, 7, 7), "layers.1.layernorm_before"),
    "ViT 160 x 96": ((48, 10, 6), "layers.1.layernorm_before"),
    "DeiT": ((48, 7, 7), "layers.1.layernorm_before"),
    "DINOv2 with registers": ((48, 7, 7), "layer.1.norm1"),
    "DINOv3": ((48, 7, 7), "layer.1.norm1"),
    "CLIP": ((48, 7, 7), "layers.1.layer_norm1"),
    "SigLIP": ((48, 7, 7), "post_layernorm"),
    "BEiT": ((48, 7, 7), "pooler"),
    "Swin": ((96, 14, 14), "layernorm"),
    "SwinV2": ((96, 14, 14), "layernorm"),
    "Hiera": ((128, 8, 8), "stages.2"),
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


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """`tried(name)`: the row of an architecture, and the folder of its model and pictures."""

    @cache
    def once(name):
        folder = tmp_path_factory.mktemp("architecture")
        return try_architecture(architectures()[name], folder), folder

    return once


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_an_architecture_is_folded_and_equals_torch(name, tried):
    row, _ = tried(name)
    shape, part = FEATURE_MAPS[name]
    assert row.feature_map == shape
    assert part in row.layer
    assert row.passed
    assert row.embedding_cosine_worst > 0.99999
    assert row.heatmap_difference_worst < 1e-4
    assert row.same_neighbor == 1
    assert row.tensorrt_rtx is not False


def _check_builds(model):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: foldcam[rtx]")
    from foldcam.benchmarks.studies.architectures.study import build_error

    assert build_error(model.SerializeToString()) is None


@pytest.mark.parametrize("name", ["ResNet", "ViT", "Swin"])
def test_quantized_residual_networks_and_transformers_build_and_stay_near(name, tried):
    _, folder = tried(name)
    model = onnx.load(folder / "model.onnx")
    contract = contract_of(model)
    paths = list_images(folder / "pictures", recursive=True)
    images = np.stack([contract.preprocessing.resized(read_image(path))[0] for path in paths])
    placement, damage = find_placement(model), Damage(model, contract, images)
    found = gather(model, contract, placement.tensors(model), images)
    choices = choose_steps(model, found, damage, "tensorrt", "mse")
    steps = {tensor: choice.step for tensor, choice in choices.items()}
    recipe, measured = best_recipe(model, placement, steps, found, damage)
    made = quantize(model, placement, recipe)
    onnx.checker.check_model(made, full_check=True)
    assert min(measured.values()) < 0.05
    _check_builds(made)
    if name == "Swin":
        return
    # The rest in float16: attention of a transformer, a layer kept in float of the other.
    kept = frozenset({placement.layers[3].name})
    half = with_float16(quantize(model, placement, replace(recipe, kept=kept)))
    onnx.checker.check_model(half, full_check=True)
    assert float16_steps(half) >= (1 if name == "ResNet" else 6)
    assert damage.of(half) < 0.05
    _check_builds(half)


def test_every_architecture_has_an_expectation_and_a_stored_result():
    stored = json.loads((RESULTS / "architectures" / RESULT).read_text(encoding="utf-8"))
    assert sorted(stored["architectures"]) == sorted(architectures()) == sorted(FEATURE_MAPS)
    assert not failed(stored)
    assert markdown_table(stored).count("\n") == len(FEATURE_MAPS) + 1
