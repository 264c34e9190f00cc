"""Networks that exist only as ONNX files: found, cut, differentiated, written, folded."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.onnx_graphs.embedding_model import opset_of
from export.onnx_graphs.file import read_onnx
from export.onnx_networks.cut import OnnxNetwork
from export.torch_networks.cut import TorchNetwork
from runtime.errors import FoldcamError

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


@pytest.fixture(scope="module")
def opened(onnx_files, tmp_path_factory):
    """`opened("face")`: the network of that style, made once."""
    made = {}

    def get(style):
        if style not in made:
            path = onnx_files.save(onnx_files.STYLES[style](), tmp_path_factory.mktemp("onnx"))
            made[style] = OnnxNetwork(read_onnx(path), onnx_files.SIZE), path
        return made[style]

    return get


def _images(count, size, seed=1):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def _run(model, images):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()[:1]
    return session.run(None, {given.name: images})


def _alone(path, style, images):
    """The file's own embeddings, image by image."""
    arrays = images.numpy()
    if style.startswith("channels last"):
        arrays = np.ascontiguousarray(arrays.transpose(0, 2, 3, 1))
    rows = [_run(str(path), arrays[at : at + 1])[0].reshape(1, -1) for at in range(len(arrays))]
    return np.concatenate(rows)


@pytest.mark.parametrize("style", FOUND)
def test_the_landmarks_of_every_style_are_found(style, opened):
    network, _ = opened(style)
    layer, shape, normalized = FOUND[style]
    assert (network.layer, network.feature_map_shape) == (layer, shape)
    assert network.normalized is normalized
    assert network.head_before_normalization


@pytest.mark.parametrize("style", FOUND)
def test_a_batch_gives_the_embeddings_that_the_file_gives_image_by_image(style, opened, onnx_files):
    network, path = opened(style)
    images = _images(4, onnx_files.SIZE)
    found = network.forward(images).embedding
    np.testing.assert_allclose(found, _alone(path, style, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("style", FOUND)
def test_the_written_graph_has_the_map_and_the_embedding(style, opset, opened, onnx_files):
    network, _ = opened(style)
    model = network.to_onnx(opset)
    onnx.checker.check_model(model, full_check=True)
    assert opset_of(model) == opset
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["feature_map", "embedding"]
    assert b"someone" not in model.SerializeToString()
    images = _images(3, onnx_files.SIZE)
    feature_map, embedding = _run(model.SerializeToString(), images.numpy())
    activations = network.forward(images)
    np.testing.assert_allclose(feature_map, activations.feature_map, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedding, activations.embedding, rtol=1e-4, atol=1e-5)


# A normalisation inside the head is differentiated with its scale held: tested below.
@pytest.mark.parametrize("style", [style for style in FOUND if style != "transformer"])
def test_the_product_is_the_slope_of_the_heads_end(style, opened, onnx_files):
    """Central differences along the gradient, in the head alone."""
    network, _ = opened(style)
    activations = network.forward(_images(2, onnx_files.SIZE))
    directions = torch.randn(2, network.embedding_size, generator=torch.Generator().manual_seed(2))
    pulled = network.pull_back_map(activations, directions)
    step = 1e-3 * pulled / pulled.norm()
    ends = [
        network._head(activations.feature_map + sign * step, *activations.context)[0].flatten(1)
        for sign in (1, -1)
    ]
    slope = float(((ends[0] - ends[1]) * directions).sum() / 2e-3)
    assert slope == pytest.approx(float(pulled.norm()), rel=2e-2)


def test_grad_weights_of_a_pooled_linear_head_by_hand(opened, onnx_files):
    """z = mean(A) W + b with W `[K, D]`, so a = W v / (h w)."""
    network, _ = opened("channels last")
    activations = network.forward(_images(2, onnx_files.SIZE))
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.5, 2.0, -1.0]])
    expected = directions @ torch.from_numpy(onnx_files.weights(2, 4, 3)).T / 48
    torch.testing.assert_close(network.pull_back(activations, directions), expected)


def test_a_file_made_for_one_image_says_that_it_was_changed(opened):
    network, _ = opened("transformer")
    assert any("batch of 1" in note for note in network.notes)
    assert any("opset 9" in note for note in opened("face")[0].notes)
    assert opened("plain")[0].notes == ()


PARITY = [
    "PlainConv",
    "Normalized",
    "LearnedScale",
    "NormalizedThenView",
    "NeckNormalized",
    "SqueezeExcite",
    "FlattenHead",
    "GlobalDepthwise",
    "TwoPools",
    "MlpHead",
    "SharedActivation",
    "RowGate",
    "Training",
]
EXPORTS = {
    "torchscript, opset 11": {"dynamo": False, "opset_version": 11},
    "torchscript, opset 17, dynamic": {
        "dynamo": False,
        "opset_version": 17,
        "input_names": ["pixels"],
        "dynamic_axes": {"pixels": {0: "n"}},
    },
    "dynamo, opset 18": {"dynamo": True, "opset_version": 18},
}


@pytest.mark.parametrize("exported", EXPORTS)
@pytest.mark.parametrize("name", PARITY)
def test_a_file_exported_from_torch_is_cut_as_the_module_is(
    name, exported, networks, cut, tmp_path
):
    torch.manual_seed(0)
    path = tmp_path / "network.onnx"
    _export(getattr(networks, name)().eval(), path, networks.SIZE, EXPORTS[exported])
    found, wanted = OnnxNetwork(read_onnx(path), networks.SIZE), cut(name)
    images, directions = _images(4, networks.SIZE), _images(1, (4, 1))[0, :, :, 0].T
    ours, theirs = found.forward(images), wanted.forward(images)
    torch.testing.assert_close(ours.feature_map, theirs.feature_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.pull_back(ours, directions),
        wanted.pull_back(theirs, directions),
        rtol=1e-4,
        atol=1e-6,
    )
    assert found.normalized == wanted.normalized
    assert found.head_before_normalization == wanted.head_before_normalization


def _export(module, path, size, options):
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(module, (torch.zeros(1, 3, *size),), str(path), **options)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("layer", ["c0", "n_c0"])
def test_a_layer_is_named_by_its_value_or_its_node(layer, onnx_files, tmp_path):
    path = onnx_files.save(onnx_files.plain(), tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE, layer)
    assert network.layer == "c0"
    assert network.forward(_images(2, onnx_files.SIZE)).feature_map.min() < 0


def test_half_networks_are_taken_and_written_as_floats_at_both_ends(onnx_files, tmp_path):
    made = onnx_files.plain()
    for tensor in made.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for value in [*made.graph.input, *made.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    network = OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)
    images = _images(2, onnx_files.SIZE)
    feature_map, embedding = _run(network.to_onnx(18).SerializeToString(), images.numpy())
    assert feature_map.dtype == embedding.dtype == np.float32
    activations = network.forward(images)
    np.testing.assert_allclose(activations.feature_map, feature_map, atol=5e-3)
    np.testing.assert_allclose(activations.embedding, embedding, atol=5e-3)
    pulled = network.pull_back(activations, torch.eye(3)[:2])
    expected = torch.from_numpy(onnx_files.weights(1, 4, 3)).T[:2] / 35
    torch.testing.assert_close(pulled, expected, rtol=1e-3, atol=1e-5)


def test_names_of_the_folded_model_inside_a_network_get_out_of_the_way(onnx_files, tmp_path):
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
    images = _images(2, onnx_files.SIZE)
    feature_map, embedding = _run(network.to_onnx(18).SerializeToString(), images.numpy())
    np.testing.assert_allclose(embedding, _run(str(path), images.numpy())[0], rtol=1e-5)
    np.testing.assert_allclose(feature_map, network.forward(images).feature_map, rtol=1e-5)


def test_a_batch_that_was_exported_as_four_serves_one(onnx_files, tmp_path):
    shape = np.array([4, 4], np.int64)
    lines = ["GlobalAveragePool map -> p", "Reshape p,shape -> f", "Gemm f,w1 -> y"]
    made = onnx_files.plain(lines, {"y": (4, 3)}, (4, 3, *onnx_files.SIZE), shape=shape)
    path = onnx_files.save(made, tmp_path)
    images = _images(4, onnx_files.SIZE)
    expected = _run(str(path), images.numpy())[0]
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
def test_constants_made_for_several_images_serve_one(name, onnx_files, tmp_path):
    lines, constants = SEVERAL[name]
    lines = ["GlobalAveragePool map -> p", "Flatten p -> f", *lines]
    made = onnx_files.plain(lines, {"y": (4, 3)}, (4, 3, *onnx_files.SIZE), **constants)
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axes":
                attribute.CopyFrom(onnx.helper.make_attribute("axes", [1]))
    path = onnx_files.save(made, tmp_path)
    images = _images(4, onnx_files.SIZE)
    expected = _run(str(path), images.numpy())[0]
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
def test_a_batch_baked_into_a_constant_is_freed(name, onnx_files, tmp_path):
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
    images = _images(3, onnx_files.SIZE)
    expected = _alone(path, name, images)
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)
    assert any("batch of 1" in note for note in network.notes)


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
        r"2 outputs that could be the embedding \('y' \[1 x 3\], 'f' \[1 x 4\]\): .*--output",
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


def test_channels_that_the_file_leaves_open_are_taken_to_come_first(onnx_files, tmp_path):
    path = onnx_files.save(onnx_files.plain(given=("N", "C", "H", "W")), tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = _images(2, onnx_files.SIZE)
    expected = _run(str(path), images.numpy())[0]
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-5, atol=1e-6)


def test_two_maps_side_by_side_are_asked_about(onnx_files, tmp_path):
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
    activations = network.forward(_images(2, onnx_files.SIZE))
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


def test_a_value_inside_the_graph_can_be_the_embedding(onnx_files, tmp_path):
    made = onnx_files.plain(outputs={"y": ("N", 3)})
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path, "f"), onnx_files.SIZE)
    assert network.embedding_size == 4
    images = _images(2, onnx_files.SIZE)
    activations = network.forward(images)
    torch.testing.assert_close(activations.embedding, activations.feature_map.mean((2, 3)))
    other = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    assert network.sha256() != other.sha256()
    with pytest.raises(FoldcamError, match="no value 'nope' for --output; its outputs: 'y'"):
        OnnxNetwork(read_onnx(path, "nope"), onnx_files.SIZE)


def test_a_head_with_an_operator_outside_the_table_is_named_and_the_way_out_offered(
    onnx_files, tmp_path
):
    head = ["GlobalAveragePool map -> p", "Flatten p -> f", "Gemm f,w1 -> g", "BlackmanLike -> y"]
    head[-1] = "CumSum g,one -> y reverse=1"
    path = onnx_files.save(onnx_files.plain(head, one=np.array(1, np.int64)), tmp_path)
    sentence = r"cannot be differentiated: CumSum \(node 'n_y'\), it is exclusive.*--head fitted"
    with pytest.raises(FoldcamError, match=sentence):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE, exact=False)
    assert network.layer == "map"
    images = _images(2, onnx_files.SIZE)
    activations = network.forward(images)
    np.testing.assert_allclose(
        activations.embedding, _run(str(path), images.numpy())[0], rtol=1e-5, atol=1e-6
    )
    assert network.head_end(activations).shape == (2, 3)
    with pytest.raises(FoldcamError, match="CumSum"):
        network.pull_back(activations, torch.ones(2, 3))


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


def test_a_constant_for_each_window_is_repeated_for_each_image(onnx_files, tmp_path):
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
    images = _images(3, onnx_files.SIZE)
    expected = _alone(path, "windows", images)
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)


def _with_branch(made, level):
    """The ReLU that makes `map` becomes an If over the mean of a value: ReLU or negated."""
    graphs = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(operator, ["c0"], [f"{operator}_out"])],
            operator,
            [],
            [onnx.helper.make_tensor_value_info(f"{operator}_out", 1, None)],
        )
        for operator in ("Relu", "Neg")
    ]
    nodes = list(made.graph.node)
    nodes[1:2] = [
        onnx.helper.make_node("ReduceMean", [level], ["level"], "n_level", keepdims=0),
        onnx.helper.make_node("Cast", ["level"], ["condition"], to=9),
        onnx.helper.make_node(
            "If", ["condition"], ["map"], "n_if", then_branch=graphs[0], else_branch=graphs[1]
        ),
    ]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


HEAD = ["Relu map -> q", "GlobalAveragePool q -> p", "Flatten p -> f", "Gemm f,w1 -> y"]


def test_a_branch_taken_by_a_constant_is_part_of_the_trunk(onnx_files, tmp_path):
    made = _with_branch(onnx_files.plain(HEAD, one=np.ones(1, np.float32)), "one")
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = _images(2, onnx_files.SIZE)
    expected = _run(str(path), images.numpy())[0]
    np.testing.assert_allclose(network.forward(images).embedding, expected, rtol=1e-5, atol=1e-6)
    assert network.layer == "q"


def test_a_branch_that_asks_for_a_size_is_taken_in_the_head_as_well(onnx_files, tmp_path):
    """As torch writes `squeeze` of a dimension whose size it does not know."""
    lines = ["GlobalAveragePool map -> p", "Shape p -> sizes", "Gather sizes,two -> width"]
    lines += ["Equal width,one -> single", "Identity p -> f", "Gemm f,w1 -> y"]
    made = onnx_files.plain(lines, two=np.array(2, np.int64), one=np.array(1, np.int64))
    axes = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    kept = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("s", "t")]
    squeeze = onnx.helper.make_node("Squeeze", ["p", "axes"], ["s"], "n_p")
    other = onnx.helper.make_node("Identity", ["p"], ["t"], "n_p")
    node = onnx.helper.make_node(
        "If",
        ["single"],
        ["f"],
        "n_if",
        then_branch=onnx.helper.make_graph([squeeze], "then", [], kept[:1], [axes]),
        else_branch=onnx.helper.make_graph([other], "else", [], kept[1:]),
    )
    (place,) = (at for at, each in enumerate(made.graph.node) if each.op_type == "Identity")
    made.graph.node[place].CopyFrom(node)
    for each in made.graph.node:
        if each.op_type == "Gemm":
            # Two nodes of one name, which ONNX allows and ONNX Runtime does not.
            each.name = made.graph.node[0].name
    path = onnx_files.save(made, tmp_path)
    network = OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    images = _images(3, onnx_files.SIZE)
    activations = network.forward(images)
    pooled = activations.feature_map.mean((2, 3)).numpy()
    np.testing.assert_allclose(
        activations.embedding, pooled @ onnx_files.weights(1, 4, 3), rtol=1e-5, atol=1e-6
    )
    found = _run(network.to_onnx(18).SerializeToString(), images.numpy())
    np.testing.assert_allclose(found[1], activations.embedding, rtol=1e-5, atol=1e-6)


def test_a_batch_norm_in_training_mode_is_named(onnx_files, tmp_path):
    made = onnx_files.plain(
        ["BatchNormalization map,s,s,s,s -> b training_mode=1", *HEAD],
        s=np.ones(4, np.float32),
    )
    for node in made.graph.node:
        if node.op_type == "BatchNormalization":
            node.output.extend(["mean", "var"])
        elif node.name == "n_q":
            node.input[0] = "b"
    with pytest.raises(FoldcamError, match=r"\(node 'n_b'\) is in training mode.*after eval"):
        OnnxNetwork(read_onnx(onnx_files.save(made, tmp_path)), onnx_files.SIZE)


def test_a_branch_that_looks_at_all_images_is_refused(onnx_files, tmp_path):
    path = onnx_files.save(_with_branch(onnx_files.plain(HEAD), "c0"), tmp_path)
    with pytest.raises(FoldcamError, match=r"ReduceMean \(node 'n_level'\) mixes or drops images"):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)


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
        FoldcamError, match=r"takes 2 inputs \('x', 'other'\).* 'f2', --output 'f', or"
    ):
        OnnxNetwork(read_onnx(path), onnx_files.SIZE)
    for output in ("f", "f2"):
        network = OnnxNetwork(read_onnx(path, output), onnx_files.SIZE)
        assert network.embedding_size == 4
        assert len(network.to_onnx(18).graph.input) == 1


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
    dynamo, networks, tmp_path
):
    torch.manual_seed(0)
    module, path = _PositionsFirst().eval(), tmp_path / "network.onnx"
    _export(module, path, networks.SIZE, {"dynamo": dynamo, "opset_version": 18 if dynamo else 14})
    network = OnnxNetwork(read_onnx(path), networks.SIZE)
    images = _images(4, networks.SIZE)
    expected = module(images).detach()
    torch.testing.assert_close(network.forward(images).embedding, expected, rtol=1e-4, atol=1e-5)


class _NormInside(torch.nn.Module):
    """Pooled, normalised in the middle, projected."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.fc = torch.nn.Conv2d(3, 6, 2, 2), torch.nn.Linear(6, 5, bias=False)
        self.norm = torch.nn.LayerNorm(6)
        torch.nn.init.normal_(self.norm.weight)

    def forward(self, image):
        x = torch.relu(self.conv(image)).mean((2, 3))
        if self.kind == "layer norm":
            x = self.norm(x)
        elif self.kind == "normalise":
            x = torch.nn.functional.normalize(x)
        elif self.kind == "root mean square":
            x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        elif self.kind == "gate":
            x = x * torch.sigmoid(x.mean(1, keepdim=True))
        return self.fc(x)


# Before opset 17 a layer norm is written in steps, later as one operator.
@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("kind", ["layer norm", "normalise", "root mean square", "gate"])
def test_a_normalisation_inside_the_head_is_held_as_in_torch(kind, opset, networks, tmp_path):
    torch.manual_seed(0)
    module, path = _NormInside(kind).eval(), tmp_path / "network.onnx"
    _export(module, path, networks.SIZE, {"dynamo": False, "opset_version": opset})
    ours, theirs = OnnxNetwork(read_onnx(path), networks.SIZE), TorchNetwork(module, networks.SIZE)
    images = _images(4, networks.SIZE)
    directions = torch.randn(4, 5, generator=torch.Generator().manual_seed(3))
    found = ours.pull_back(ours.forward(images), directions)
    expected = theirs.pull_back(theirs.forward(images), directions)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    not_held = TorchNetwork(module, networks.SIZE, hold=False)
    other = not_held.pull_back(not_held.forward(images), directions)
    held = kind != "gate"
    assert (not torch.allclose(found, other, rtol=1e-3, atol=1e-6)) == held
