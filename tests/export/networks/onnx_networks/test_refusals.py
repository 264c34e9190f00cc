"""What is wrong with an ONNX network is said in one sentence."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.models.spec import load_model, with_overrides
from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.networks.onnx_networks.head import OnnxHead
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.runtime.system.errors import FoldcamError

REFUSED = {
    "no map": ({"head": ["Flatten x -> f", "Gemm f,w2 -> y"]}, "no spatial feature map"),
    "a leak over the batch": (
        {
            "head": [
                "GlobalAveragePool map -> p",
                "ReduceMean p -> m axes=0,0 keepdims=1",
                "Sub p,m -> c",
                "Flatten c -> f",
                "Gemm f,w1 -> y",
            ]
        },
        r"ReduceMean \(node 'n_m'\) mixes or drops images",
    ),
    "a shape that depends on values": (
        {
            "head": [
                "GlobalAveragePool map -> p",
                "Flatten p -> f",
                "NonZero f -> nz",
                "Cast nz -> nzf to=1",
                "ReduceSum nzf -> s",
                "Gemm f,w1 -> g",
                "Add g,s -> y",
            ]
        },
        r"NonZero \(node 'n_nz'\) returns depends on the image's values",
    ),
    "two outputs": (
        {"outputs": {"y": ("N", 3), "f": ("N", 4)}},
        r"several outputs that could be the embedding: .*--output: 'y' \[1 x 3\], 'f' \[1 x 4\]\.",
    ),
    "no embedding": ({"outputs": {"map": ("N", 4, 5, 7)}}, r"'map' \[1 x 4 x 5 x 7\].*--output"),
    "grey images": ({"given": ("N", 1, 12, 16)}, r"shape \? x 1 x 12 x 16"),
    "another size": ({"given": ("N", 3, 32, 32)}, "32 x 32 pixels and no others: .*--size 32x32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_used_is_refused_in_one_sentence(name, onnx_files, tmp_path):
    options, sentence = REFUSED[name]
    made = onnx_files.plain(**options, w2=onnx_files.weights(5, 576, 3))
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes" and list(attribute.ints) == [0, 0]:
                del attribute.ints[1:]
    with pytest.raises(FoldcamError, match=sentence) as caught:
        OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)
    assert "\n" not in str(caught.value)


def test_pixels_that_are_not_floats_are_refused(onnx_files, tmp_path):
    made = onnx_files.plain()
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    made.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["float"], to=1))
    made.graph.node[1].input[0] = "float"
    with pytest.raises(FoldcamError, match="input 'x' is uint8, and float32 pixels"):
        OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)


def test_two_maps_side_by_side_are_asked_about(onnx_files, tmp_path, random_images):
    head = [
        "Conv x,w2 -> c1 strides=4,4",
        "Relu c1 -> map2",
        "GlobalAveragePool map -> p1",
        "GlobalAveragePool map2 -> p2",
        "Concat p1,p2 -> both axis=1",
        "Flatten both -> f",
        "Gemm f,w3 -> y",
    ]
    made = onnx_files.plain(
        head, w2=onnx_files.weights(2, 2, 3, 4, 4), w3=onnx_files.weights(3, 6, 3)
    )
    path = onnx_files.save(made, tmp_path)
    with pytest.raises(FoldcamError, match=r"2 feature maps .* --layer: map .*map2 \[2 x 3 x 4\]"):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE, "map2")
    activations = network.forward(random_images(2, onnx_files.SIZE))
    assert network.pull_back(activations, torch.ones(2, 3)).shape == (2, 2)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("nope", r"no layer 'nope'; choose one of: .*map \[4 x 5 x 7\]"),
        ("f", "has no spatial output"),
    ],
)
def test_a_layer_that_cannot_be_taken_lists_the_candidates(layer, sentence, onnx_files, tmp_path):
    path = onnx_files.save(onnx_files.plain(), tmp_path)
    with pytest.raises(FoldcamError, match=sentence):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE, layer)


def test_a_head_with_an_operator_outside_the_table_is_named_and_the_way_out_offered(
    onnx_files, tmp_path, random_images, answers_of
):
    head = ["GlobalAveragePool map -> p", "Flatten p -> f", "Gemm f,w1 -> g", "BlackmanLike -> y"]
    head[-1] = "CumSum g,one -> y reverse=1"
    path = onnx_files.save(onnx_files.plain(head, one=np.array(1, np.int64)), tmp_path)
    sentence = r"cannot be differentiated: CumSum \(node 'n_y'\), it is exclusive.*--head fitted"
    with pytest.raises(FoldcamError, match=sentence):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE, exact=False)
    assert network.layer == "map"
    images = random_images(2, onnx_files.SIZE)
    activations = network.forward(images)
    np.testing.assert_allclose(
        activations.embedding, answers_of(str(path), images.numpy())[0], rtol=1e-5, atol=1e-6
    )
    assert network.head_end(activations).shape == (2, 3)
    with pytest.raises(FoldcamError, match="CumSum"):
        network.pull_back(activations, torch.ones(2, 3))
    with pytest.raises(FoldcamError, match="cannot be run on a changed feature map: CumSum"):
        network.embed_map(activations, activations.feature_map)


def _rounded_between(onnx_files):
    """An operator without a gradient between an early map and a late one."""
    head = [
        "CumSum map,one -> summed reverse=1 exclusive=1",
        "MaxPool summed -> small kernel_shape=2,2 strides=2,2",
        "Relu small -> late",
        "GlobalAveragePool late -> p",
        "Flatten p -> f",
        "Gemm f,w1 -> y",
    ]
    return onnx_files.plain(head, one=np.array(1, np.int64))


def test_layers_behind_what_has_no_gradient_are_named_and_work(onnx_files, tmp_path):
    file = read_onnx(onnx_files.save(_rounded_between(onnx_files), tmp_path))
    with pytest.raises(FoldcamError, match=r"CumSum .*or --layer, one of those") as caught:
        OnnxNetwork(file, onnx_files.SIZE, "map")
    names = re.findall(r"(\w+) \[\d+ x ", str(caught.value).partition("--layer")[2])
    assert names
    for name in names:
        assert OnnxNetwork(file, onnx_files.SIZE, name).layer == name


@pytest.mark.parametrize("layer", ["nope", "f"])
def test_every_layer_that_is_listed_can_be_taken(layer, onnx_files, tmp_path):
    file = read_onnx(onnx_files.save(onnx_files.STYLES["transformer"](), tmp_path))
    with pytest.raises(FoldcamError, match="choose one of") as caught:
        OnnxNetwork(file, onnx_files.SIZE, layer)
    names = re.findall(r"(\w+) \[\d+ x ", str(caught.value).partition("choose one of")[2])
    assert len(names) > 3
    for name in names:
        assert OnnxNetwork(file, onnx_files.SIZE, name).layer == name


def test_the_size_that_is_advised_is_taken(onnx_files, tmp_path):
    path = str(onnx_files.save(onnx_files.plain(given=("N", 3, 32, 20)), tmp_path))
    loaded = load_model(path)
    with pytest.raises(FoldcamError, match="32 pixels and no others") as caught:
        loaded.network(size=(64, 64))
    size = re.search(r"--size (\S+)\.", str(caught.value)).group(1)
    recipe = with_overrides(loaded.preprocessing, size=size)
    assert loaded.network(size=(recipe.height, recipe.width)).embedding_size == 3


def test_a_head_that_torch_computes_otherwise_can_be_fitted_as_advised(
    onnx_files, tmp_path, monkeypatch, random_images
):
    file = read_onnx(onnx_files.save(onnx_files.plain(), tmp_path))
    exact = OnnxHead.__call__

    def off(self, *values):
        z, embedding = exact(self, *values)
        return z, embedding + 1

    monkeypatch.setattr(OnnxHead, "__call__", off)
    with pytest.raises(FoldcamError, match=r"gives another 'y' than ONNX Runtime.*--head fitted"):
        OnnxNetwork(file, onnx_files.SIZE)
    network = OnnxNetwork(file, onnx_files.SIZE, exact=False)
    assert network.forward(random_images(2, onnx_files.SIZE)).embedding.shape == (2, 3)
