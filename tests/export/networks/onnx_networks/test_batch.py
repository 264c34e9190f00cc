"""A batch that was baked into an ONNX file is freed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.onnx_graphs.file import read_onnx


def test_a_batch_that_was_exported_as_four_serves_one(
    onnx_files, tmp_path, random_images, answers_of
):
    shape = np.array([4, 4], np.int64)
    lines = ["GlobalAveragePool map -> p", "Reshape p,shape -> f", "Gemm f,w1 -> y"]
    made = onnx_files.plain(lines, {"y": (4, 3)}, (4, 3, *onnx_files.SIZE), shape=shape)
    path = onnx_files.save(made, tmp_path)
    images = random_images(4, onnx_files.SIZE)
    expected = answers_of(str(path), images.numpy())[0]
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    for count in (1, 3, 4):
        found = network.forward(images[:count]).embedding
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)


SEVERAL = {
    "an expanded norm": (
        [
            "Gemm f,w1 -> z",
            "ReduceL2 z -> n axes=1 keepdims=1",
            "Expand n,sizes -> e",
            "Div z,e -> y",
        ],
        {"sizes": np.array([4, 3], np.int64)},
    ),
    "a token for each": (
        ["Concat f,token -> j axis=1", "Gemm j,w2 -> y"],
        {"token": np.full((4, 2), 0.5, np.float32), "w2": np.ones((6, 3), np.float32)},
    ),
    "a bias for each": (
        ["Gemm f,w1 -> z", "Add z,bias -> y"],
        {"bias": np.tile(np.array([[1.0, 2.0, 3.0]], np.float32), (4, 1))},
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_constants_made_for_several_images_serve_one(
    name, onnx_files, tmp_path, random_images, answers_of
):
    lines, constants = SEVERAL[name]
    lines = ["GlobalAveragePool map -> p", "Flatten p -> f", *lines]
    made = onnx_files.plain(lines, {"y": (4, 3)}, (4, 3, *onnx_files.SIZE), **constants)
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                attribute.CopyFrom(onnx.helper.make_attribute("axes", [1]))
    path = onnx_files.save(made, tmp_path)
    images = random_images(4, onnx_files.SIZE)
    expected = answers_of(str(path), images.numpy())[0]
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    for count in (1, 3, 4):
        found = network.forward(images[:count]).embedding
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)


BAKED = {
    "a squeeze of all ones": (["GlobalAveragePool map -> p", "Squeeze p -> s", "Gemm2 -> y"], {}),
    "a shape": (["GlobalAveragePool map -> p", "Reshape p,row -> s", "Gemm2 -> y"], {}),
    "a target size": (
        [
            "Resize map,,,sizes -> big mode=linear",
            "ReduceMean big -> s axes=2,3 keepdims=0",
            "Gemm2 -> y",
        ],
        {"sizes": np.array([1, 4, 10, 14], np.int64)},
    ),
    "a token": (
        [
            "Reshape map,flat -> f",
            "Concat f,token -> j axis=2",
            "ReduceMean j -> s axes=2,2 keepdims=0",
            "Gemm2 -> y",
        ],
        {"flat": np.array([1, 4, 35], np.int64), "token": np.ones((1, 4, 1), np.float32)},
    ),
}


@pytest.mark.parametrize("name", BAKED)
def test_a_batch_baked_into_a_constant_is_freed(
    name, onnx_files, tmp_path, random_images, answers_one_by_one
):
    lines, constants = BAKED[name]
    lines = [
        line.replace("Gemm2", "MatMul s,w1").replace("axes=2,2", "axes=2,-1") for line in lines
    ]
    if name == "a token":
        lines[2] = "ReduceMean j -> s axes=2,2 keepdims=0"
    made = onnx_files.plain(
        lines, {"y": (1, 3)}, (1, 3, *onnx_files.SIZE), row=np.array([1, 4], np.int64), **constants
    )
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes" and list(attribute.ints) == [2, 2]:
                del attribute.ints[1:]
    if name == "a squeeze of all ones":
        made.graph.output[0].type.tensor_type.ClearField("shape")
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = random_images(3, onnx_files.SIZE)
    expected = answers_one_by_one(path, name, images)
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)
    assert any("batch of 1" in note for note in network.notes)


def test_a_constant_for_each_window_is_repeated_for_each_image(
    onnx_files, tmp_path, random_images, answers_one_by_one
):
    """Four windows of 2 x 2 and a bias for each, as a shifted window attention bakes it in."""
    head = [
        "MaxPool map -> small kernel_shape=2,4 strides=1,1",
        "Transpose small -> rows perm=0,2,3,1",
        "Reshape rows,windows -> w",
        "Add w,bias -> b",
        "Reshape b,again -> back",
        "ReduceMean back -> p axes=1,2 keepdims=0",
        "Gemm p,w1 -> y",
    ]
    made = onnx_files.plain(
        head,
        {"y": (1, 3)},
        (1, 3, *onnx_files.SIZE),
        windows=np.array([4, 4, 4], np.int64),
        again=np.array([1, 4, 4, 4], np.int64),
        bias=onnx_files.weights(7, 4, 4, 4),
    )
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = random_images(3, onnx_files.SIZE)
    expected = answers_one_by_one(path, "windows", images)
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)


class _PositionsFirst(torch.nn.Module):
    """As CLIP's image encoder: class token, and an attention over `[positions, N, channels]`."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 6, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(6))
        self.attention = torch.nn.MultiheadAttention(6, 3)
        self.project = torch.nn.Linear(6, 3)

    def forward(self, image):
        tokens = self.patches(image).flatten(2).permute(0, 2, 1)
        token = self.token + torch.zeros(tokens.shape[0], 1, 6)
        tokens = torch.cat([token, tokens], 1).permute(1, 0, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.project(tokens.permute(1, 0, 2)[:, 0])


@pytest.mark.parametrize("dynamo", [False, True])
def test_an_attention_with_positions_before_images_is_freed_of_its_batch(
    dynamo, networks, tmp_path, random_images, export_quietly
):
    torch.manual_seed(0)
    module, path = _PositionsFirst().eval(), tmp_path / "network.onnx"
    export_quietly(
        module, path, networks.SIZE, {"dynamo": dynamo, "opset_version": 18 if dynamo else 14}
    )
    network = OnnxNetwork(read_onnx(path), networks.SIZE)
    images = random_images(4, networks.SIZE)
    expected = module(images).detach()
    torch.testing.assert_close(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)
