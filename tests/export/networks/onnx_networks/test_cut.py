"""Networks that exist only as ONNX files: found, cut, differentiated, written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.file import read_onnx
from foldcam.runtime.system.errors import FoldcamError

#  style                      layer    shape        normalized
FOUND = {
    "face": ("dropped", (4, 6, 8), False),
    # The same numbers as `last`, which is only arranged otherwise.
    "channels last": ("r0", (4, 6, 8), True),
    "channels last, batch of 1": ("r0", (4, 6, 8), True),
    "transformer": ("l0", (6, 3, 4), False),
    "squeeze and excitation": ("gated", (4, 6, 8), False),
    "two pools": ("r0", (4, 5, 7), True),
    "plain": ("map", (4, 5, 7), False),
}


@pytest.mark.parametrize("style", FOUND)
def test_feature_map_and_head_are_found_in_every_style(style, opened):
    network, _ = opened(style)
    layer, shape, normalized = FOUND[style]
    assert (network.layer, network.feature_map_shape) == (layer, shape)
    assert network.normalized is normalized
    assert network.head_before_normalization


@pytest.mark.parametrize("style", FOUND)
def test_a_batch_gives_the_embeddings_that_the_file_gives_image_by_image(
    style, opened, onnx_files, random_images, answers_one_by_one
):
    network, path = opened(style)
    images = random_images(4, onnx_files.SIZE)
    found = network.forward(images).embedding
    np.testing.assert_allclose(found, answers_one_by_one(path, style, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("style", FOUND)
def test_the_written_graph_has_the_map_and_the_embedding(
    style, opset, opened, onnx_files, random_images, answers_of
):
    network, _ = opened(style)
    model = network.to_onnx(opset)
    onnx.checker.check_model(model, full_check=True)
    assert opset_of(model) == opset
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["feature_map", "embedding"]
    assert b"someone" not in model.SerializeToString()
    images = random_images(3, onnx_files.SIZE)
    feature_map, embedding = answers_of(model.SerializeToString(), images.numpy())
    activations = network.forward(images)
    np.testing.assert_allclose(feature_map, activations.feature_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedding, activations.embedding, rtol=1e-4, atol=1e-5)


# A normalisation inside the head is differentiated with its scale held: tested below.
@pytest.mark.parametrize("style", [style for style in FOUND if style != "transformer"])
def test_the_product_is_the_slope_of_the_heads_end(style, opened, onnx_files, random_images):
    """Central differences along the gradient, in the head alone."""
    network, _ = opened(style)
    activations = network.forward(random_images(2, onnx_files.SIZE))
    directions = torch.randn(2, network.embedding_size, generator=torch.Generator().manual_seed(2))
    pulled = network.pull_back_map(activations, directions)
    step = 1e-3 * pulled / pulled.norm()
    ends = [
        network._head(activations.feature_map + sign * step, *activations.context)[0].flatten(1)
        for sign in (1, -1)
    ]
    slope = float(((ends[0] - ends[1]) * directions).sum() / 2e-3)
    assert slope == pytest.approx(float(pulled.norm()), rel=2e-2)


def test_grad_weights_of_a_pooled_linear_head_by_hand(opened, onnx_files, random_images):
    """z = mean(A) W + b with W `[K, D]`, so a = W v / (h w)."""
    network, _ = opened("channels last")
    activations = network.forward(random_images(2, onnx_files.SIZE))
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, -1.0]])
    expected = directions @ torch.from_numpy(onnx_files.weights(2, 4, 3)).T / 48
    torch.testing.assert_close(network.pull_back(activations, directions), expected)


def test_a_file_made_for_one_image_says_that_it_was_changed(opened):
    network, _ = opened("transformer")
    assert any("batch of 1" in note for note in network.notes)
    assert any("opset 9" in note for note in opened("face")[0].notes)
    assert opened("plain")[0].notes == ()


@pytest.mark.parametrize("layer", ["c0", "n_c0"])
def test_a_layer_is_named_by_its_value_or_its_node(layer, onnx_files, tmp_path, random_images):
    path = onnx_files.save(onnx_files.plain(), tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE, layer)
    assert network.layer == "c0"
    assert network.forward(random_images(2, onnx_files.SIZE)).feature_map.min() < 0


def test_half_networks_are_taken_and_written_as_floats_at_both_ends(
    onnx_files, tmp_path, random_images, answers_of
):
    made = onnx_files.plain()
    for tensor in made.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for value in [*made.graph.input, *made.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    network = OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)
    images = random_images(2, onnx_files.SIZE)
    feature_map, embedding = answers_of(network.to_onnx(18).SerializeToString(), images.numpy())
    assert feature_map.dtype == embedding.dtype == np.float32
    activations = network.forward(images)
    np.testing.assert_allclose(activations.feature_map, feature_map, atol=5e-3)
    np.testing.assert_allclose(activations.embedding, embedding, atol=5e-3)
    pulled = network.pull_back(activations, torch.eye(3)[:2])
    expected = torch.from_numpy(onnx_files.weights(1, 4, 3)).T[:2] / 35
    torch.testing.assert_close(pulled, expected, rtol=1e-3, atol=1e-5)


def test_names_of_the_folded_model_inside_a_network_get_out_of_the_way(
    onnx_files, tmp_path, random_images, answers_of
):
    lines = [
        "Mul map,image -> feature_map",
        "GlobalAveragePool feature_map -> embedding",
        "Flatten embedding -> f",
        "Gemm f,heatmap -> similarity",
    ]
    made = onnx_files.plain(
        lines,
        {"similarity": ("N", 3)},
        image=np.full(1, 2.0, np.float32),
        heatmap=onnx_files.weights(1, 4, 3),
    )
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    assert network.layer == "feature_map"
    images = random_images(2, onnx_files.SIZE)
    feature_map, embedding = answers_of(network.to_onnx(18).SerializeToString(), images.numpy())
    np.testing.assert_allclose(embedding, answers_of(str(path), images.numpy())[0], rtol=1e-5)
    np.testing.assert_allclose(feature_map, network.forward(images).feature_map, rtol=1e-5)


def test_channels_that_the_file_leaves_open_are_taken_to_come_first(
    onnx_files, tmp_path, random_images, answers_of
):
    path = onnx_files.save(onnx_files.plain(given=("N", "C", "H", "W")), tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = random_images(2, onnx_files.SIZE)
    expected = answers_of(str(path), images.numpy())[0]
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-5, atol=1e-6)


def test_a_value_inside_the_graph_can_be_the_embedding(onnx_files, tmp_path, random_images):
    made = onnx_files.plain(outputs={"y": ("N", 3)})
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path, "f"), onnx_files.SIZE)
    assert network.embedding_size == 4
    images = random_images(2, onnx_files.SIZE)
    activations = network.forward(images)
    torch.testing.assert_close(activations.embedding, activations.feature_map.mean((2, 3)))
    other = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    assert network.sha256() != other.sha256()
    with pytest.raises(FoldcamError, match="no value 'nope' for --output; its outputs: 'y'"):
        OnnxNetwork(read_onnx(path, "nope"), onnx_files.SIZE)


def test_nothing_before_an_operator_without_a_gradient_is_the_feature_map(onnx_files, tmp_path):
    head = [
        "CumSum map,two -> summed reverse=1",
        "Relu summed -> after",
        "GlobalAveragePool after -> p",
        "Flatten p -> f",
        "Gemm f,w1 -> y",
    ]
    path = onnx_files.save(onnx_files.plain(head, two=np.array(2, np.int64)), tmp_path)
    assert OnnxNetwork(read_onnx(path), onnx_files.SIZE).layer == "after"
    with pytest.raises(FoldcamError, match=r"CumSum \(node 'n_summed'\)"):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE, "map")


def test_one_twin_of_a_network_that_compares_two_images_is_taken(onnx_files, tmp_path):
    head = [
        "GlobalAveragePool map -> p",
        "Flatten p -> f",
        "Conv other,w0 -> c2 strides=2,2",
        "Relu c2 -> map2",
        "GlobalAveragePool map2 -> p2",
        "Flatten p2 -> f2",
        "Sub f,f2 -> apart",
        "Gemm apart,w1 -> y",
    ]
    made = onnx_files.plain(head)
    other = onnx.ValueInfoProto()
    other.CopyFrom(made.graph.input[0])
    other.name = "other"
    made.graph.input.append(other)
    path = onnx_files.save(made, tmp_path)
    with pytest.raises(
        FoldcamError, match=r"takes 2 inputs \('x', 'other'\).* --output: 'f2', 'f'\."
    ):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    for output in ("f", "f2"):
        network = OnnxNetwork(read_onnx(path, output), onnx_files.SIZE)
        assert network.embedding_size == 4
        assert len(network.to_onnx(18).graph.input) == 1


@pytest.mark.parametrize("style", FOUND)
def test_a_changed_feature_map_gives_the_embedding_that_it_leads_to(
    style, opened, onnx_files, random_images
):
    network, _ = opened(style)
    activations = network.forward(random_images(3, onnx_files.SIZE))
    same = network.embed_map(activations, activations.feature_map)
    np.testing.assert_allclose(same, activations.embedding, rtol=1e-5, atol=1e-6)
    moved = network.embed_map(activations, activations.feature_map.roll(1, dims=0) * 2)
    assert not np.allclose(moved, activations.embedding, atol=1e-4)
    assert not moved.requires_grad
