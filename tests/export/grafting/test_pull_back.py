"""A graph that computes its grad-weights itself gives those of torch, with scales held."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from foldcam.export.grafting.own import graft_pull_back, obstacle_to_pull_back
from foldcam.export.networks.onnx_networks.prepare import prepare
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.onnx_graphs.file import OnnxFile
from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.export.onnx_graphs.precision import to_float16
from foldcam.export.onnx_graphs.writing import Graft
from foldcam.runtime.system.errors import FoldcamError

D = 5
POOLED = ["Conv x,w0 -> c strides=2,2", "Relu c -> r", "GlobalAveragePool r -> s"]


@pytest.fixture(scope="module")
def numbers(onnx_files):
    """Constants that the heads below share."""
    weights, positive = onnx_files.weights, onnx_files.positive
    return {
        **{f"w{at}": weights(at, 6, 3, 3, 3) for at in (0,)},
        "a": weights(1, 6, 8),
        "c1": weights(2, 8, D),
        "t": weights(3, D, 6),
        "bias": weights(4, D),
        "squeeze": weights(5, 2, 6, 1, 1),
        "excite": weights(6, 6, 2, 1, 1),
        "deep": weights(7, 6, 1, 5, 7) * 4,
        "point": weights(8, D, 6, 1, 1),
        "slope": positive(9, 8),
        "ns": positive(10, 6),
        "nb": weights(11, 6),
        "nm": weights(12, 6),
        "nv": positive(13, 6),
        "one": np.array([1], np.int64),
        "tiny": np.array(1e-12, np.float32),
        "cube": np.array(3.0, np.float32),
        "root": np.array(1 / 3, np.float32),
        "low": np.array(1e-6, np.float32),
        "sixwide": np.array([1, 6], np.int64),
        "deepwide": np.array([1, D], np.int64),
    }


# The lines of a head that ends in z and the embedding y.
HEADS = {
    "generalised mean": [
        "Conv x,w0 -> c strides=2,2",
        "Clip c,low -> r",
        "Pow r,cube -> p",
        "GlobalAveragePool p -> s",
        "Pow s,root -> g",
        "Flatten g -> f",
        "Gemm f,t,bias -> z transB=1",
        "LpNormalization z -> y axis=1 p=2",
    ],
    "depthwise": [
        "Conv x,w0 -> c strides=2,2",
        "Relu c -> r",
        "Conv r,deep -> s group=6",
        "BatchNormalization s,ns,nb,nm,nv -> n",
        "Conv n,point -> q",
        "Flatten q -> z",
        "ReduceL2 z -> norm axes=1,1 keepdims=1",
        "Max norm,tiny -> safe",
        "Div z,safe -> y",
    ],
    "two linear with a PReLU": [
        *POOLED,
        "Flatten s -> f",
        "MatMul f,a -> h",
        "PRelu h,slope -> g",
        "MatMul g,c1 -> z",
        "LpNormalization z -> y axis=1 p=2",
    ],
    "gate": [
        *POOLED,
        "Conv s,squeeze -> q",
        "Relu q -> active",
        "Conv active,excite -> e",
        "HardSigmoid e -> gate alpha=0.2 beta=0.5",
        "Mul s,gate -> gated",
        "Flatten gated -> f",
        "Gemm f,t -> y transB=1",
    ],
    "neck with an L2 before it": [
        *POOLED,
        "Flatten s -> f",
        "ReduceL2 f -> norm axes=1,1 keepdims=1",
        "Clip norm,tiny -> safe",
        "Expand safe,sixwide -> wide",
        "Div f,wide -> u",
        "BatchNormalization u,ns,nb,nm,nv -> n",
        "Gemm n,t,bias -> z transB=1",
        "LpNormalization z -> y axis=1 p=2",
    ],
    "two parts": [
        *POOLED,
        "Flatten s -> f",
        "Split f -> f1,f2 axis=1",
        "Tanh f1 -> g1",
        "Concat f2,g1 -> g axis=1",
        "Softplus g -> h",
        "MatMul h,a -> k",
        "MatMul k,c1 -> y",
    ],
}


def _norm(name, source):
    """A layer normalisation in steps, as older exporters write it."""
    return [
        f"ReduceMean {source} -> {name}m axes=-1,-1",
        f"Sub {source},{name}m -> {name}d",
        f"Pow {name}d,two -> {name}q",
        f"ReduceMean {name}q -> {name}v axes=-1,-1",
        f"Add {name}v,eps -> {name}e",
        f"Sqrt {name}e -> {name}r",
        f"Div {name}d,{name}r -> {name}u",
        f"Mul {name}u,gain -> {name}g",
        f"Add {name}g,shift -> {name}",
    ]


_ERF = [
    "Div h,root2 -> h1",
    "Erf h1 -> h2",
    "Add h2,one -> h3",
    "Mul h,h3 -> h4",
    "Mul h4,half -> hidden",
]
_TANH = [
    "Pow h,three -> h1",
    "Mul h1,cubic -> h2",
    "Add h,h2 -> h3",
    "Mul h3,scale -> h4",
    "Tanh h4 -> h5",
    "Add h5,one -> h6",
    "Mul h,h6 -> h7",
    "Mul h7,half -> hidden",
]
_FLAT_TOKENS = ["Reshape back,rows -> o1", "Gemm o1,wo,shift -> o2", "Reshape o2,whole -> o"]
_TOKENS_FIRST = [
    "Transpose back -> f0 perm=1,0,2",
    "Reshape f0,rows -> f1",
    "Gemm f1,wo,shift -> f2",
    "Reshape f2,tokensfirst -> f3",
    "Transpose f3 -> o perm=1,0,2",
]
_PLAIN = ["MatMul back,wo -> o0", "Add o0,shift -> o"]
_CLASS_TOKEN = ["Gather l2,zero -> y axis=1"]
_BOTH = [
    "Gather l2,zero -> cls axis=1",
    "Slice l2,from1,toend,axis1 -> others",
    "ReduceMean others -> mean axes=1,1 keepdims=0",
    "Concat cls,mean -> y axis=1",
]
_MEAN = ["ReduceMean l2 -> y axes=1,1 keepdims=0"]


def _block(gelu, projection, end):
    """A transformer's last block: pre-norm, layer scale, a gated residual and a last norm."""
    return [
        "Conv x,w0 -> patches strides=4,4",
        "Reshape patches,flat -> columns",
        "Transpose columns -> tokens perm=0,2,1",
        "ReduceMean tokens -> token axes=1,1",
        "Concat token,tokens -> t0 axis=1",
        *_norm("l0", "t0"),
        *(f"MatMul l0,w{n} -> {n}" for n in "qkv"),
        *(f"Reshape {n},heads -> {n}h" for n in "qkv"),
        *(f"Transpose {n}h -> {n}t perm=0,2,1,3" for n in "qv"),
        "Transpose kh -> kt perm=0,2,3,1",
        "MatMul qt,kt -> scores",
        "Softmax scores -> shares axis=-1",
        "MatMul shares,vt -> s",
        "Transpose s -> st perm=0,2,1,3",
        "Reshape st,whole -> back",
        *projection,
        "Mul o,ls -> scaled",
        "Add t0,scaled -> t1",
        *_norm("l1", "t1"),
        "MatMul l1,w1 -> h0",
        "Add h0,hb -> h",
        *gelu,
        "MatMul hidden,w2 -> mlp",
        "Add mlp,t1 -> t2",
        *_norm("l2", "t2"),
        *end,
    ]


BLOCKS = {
    "class token": (_ERF, _PLAIN, _CLASS_TOKEN),
    "class token, GELU of tanh": (_TANH, _PLAIN, _CLASS_TOKEN),
    "tokens and images in one axis": (_ERF, _FLAT_TOKENS, _CLASS_TOKEN),
    "tokens before images": (_ERF, _TOKENS_FIRST, _CLASS_TOKEN),
    "class token beside a mean of the others": (_ERF, _PLAIN, _BOTH),
    "mean of all tokens": (_ERF, _PLAIN, _MEAN),
}


@pytest.fixture(scope="module")
def token_numbers(onnx_files):
    weights, positive = onnx_files.weights, onnx_files.positive
    return {
        "w0": weights(0, 6, 3, 4, 4),
        **{f"w{name}": weights(at, 6, 6) for at, name in enumerate("qkvo", 1)},
        "w1": weights(5, 6, 9),
        "hb": weights(6, 9),
        "w2": weights(7, 9, 6),
        "gain": positive(8, 6),
        "shift": weights(9, 6),
        "ls": weights(10, 6),
        "flat": np.array([0, 6, 12], np.int64),
        "heads": np.array([0, 13, 3, 2], np.int64),
        "whole": np.array([-1, 13, 6], np.int64),
        "rows": np.array([-1, 6], np.int64),
        "tokensfirst": np.array([13, -1, 6], np.int64),
        "two": np.array(2.0, np.float32),
        "three": np.array(3.0, np.float32),
        "eps": np.array(1e-6, np.float32),
        "one": np.array(1.0, np.float32),
        "half": np.array(0.5, np.float32),
        "root2": np.array(np.sqrt(2), np.float32),
        "cubic": np.array(0.044715, np.float32),
        "scale": np.array(np.sqrt(2 / np.pi), np.float32),
        "zero": np.array(0, np.int64),
        "from1": np.array([1], np.int64),
        "toend": np.array([2**62], np.int64),
        "axis1": np.array([1], np.int64),
    }


def _prepared(model, path="file.onnx", size=(12, 16)):
    return prepare(OnnxFile(path, model), size)


def _made(onnx_files, lines, numbers):
    read = {name for line in lines for name in line.split(" -> ")[0].split(" ")[1].split(",")}
    constants = {name: value for name, value in numbers.items() if name in read}
    made = onnx_files.graph(lines, constants, 17, ("batch", 3, 12, 16), {"y": ("batch", None)})
    for node in made.graph.node:
        for attribute in node.attribute:
            # One number cannot be written as a list of one.
            if attribute.name == "axes":
                del attribute.ints[1:]
    return made


@pytest.fixture(scope="module")
def head(onnx_files, numbers):
    """`head("gate")`: a network with that head, prepared; the name of its `z`."""

    def get(name):
        prepared = _prepared(_made(onnx_files, HEADS[name], numbers))
        return prepared, find_normalization(prepared.model.graph, "y") or "y"

    return get


@pytest.fixture(scope="module")
def block(onnx_files, token_numbers):
    """`block("class token")`: a transformer of one block, prepared."""
    return lambda name: _prepared(_made(onnx_files, _block(*BLOCKS[name]), token_numbers))


def _images(count, size=(12, 16)):
    return np.random.default_rng(5).normal(size=(count, 3, *size)).astype(np.float32)


def _check(pulled_back, model, source, end, feeds, expected, row=None):
    """Compare a batch, and an image of it alone; returns the graph."""
    count, size = feeds["direction"].shape
    graph = pulled_back.grafted(model, source, end, size, row)
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    if row is not None:
        # [N, H, Q, d] or [N * H, Q, d]
        expected = expected.reshape(count, -1, *expected.shape[-2:])[:, :, row]
    expected = expected.reshape(count, -1)
    assert pulled_back.worst(found, expected) <= 1e-5
    alone = {name: each[1:2] for name, each in feeds.items()}
    (one,) = pulled_back.run(graph, [pulled_back.ANSWER], alone)
    assert pulled_back.worst(one, expected[1:2]) <= 1e-5
    assert obstacle_to_pull_back(model, source, end, row) is None
    return graph


def _feeds(pulled_back, size, count=3, image_size=(12, 16)):
    return {
        "image": _images(count, image_size),
        "direction": pulled_back.directions(count, size),
    }


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_the_grad_weights_of_torch(name, head, pulled_back, build_engine):
    prepared, end = head(name)
    feeds = _feeds(pulled_back, prepared.embedding_size)
    expected = pulled_back.by_head(prepared, "s", end, *feeds.values())
    build_engine(_check(pulled_back, prepared.model, "s", end, feeds, expected))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_gives_the_grad_weights_of_one_token(name, block, pulled_back, build_engine):
    prepared = block(name)
    feeds = _feeds(pulled_back, prepared.embedding_size)
    expected = pulled_back.by_head(prepared, "s", "y", *feeds.values())
    build_engine(_check(pulled_back, prepared.model, "s", "y", feeds, expected, row=0))


def test_behind_an_attention_only_one_token_is_computed(block, pulled_back):
    prepared = block("class token")
    graph = pulled_back.grafted(prepared.model, "s", "y", 6, 0)
    added = [
        str(name)
        for node in graph.graph.node[len(prepared.model.graph.node) :]
        for name in node.output
    ]
    found = pulled_back.run(graph, added, {"image": _images(2), "direction": np.ones((2, 6), "f")})
    # A token's hidden layer has 9 numbers, a weight matrix 54.
    assert max(each.size for each in found) <= 54


def test_all_rows_of_an_attention_give_the_one_asked_for_and_zeros(block, pulled_back):
    prepared = block("class token")
    feeds = _feeds(pulled_back, 6, count=2)
    whole, one = (
        pulled_back.run(
            pulled_back.grafted(prepared.model, "s", "y", 6, row), [pulled_back.ANSWER], feeds
        )[0]
        for row in (None, 0)
    )
    whole = whole.reshape(2, 3, 13, 2)
    assert np.allclose(whole[:, :, 0].reshape(2, -1), one, rtol=1e-5, atol=1e-7)
    assert not whole[:, :, 1:].any()


class _Token(torch.nn.Module):
    """A model of transformers, and what of it is the embedding."""

    def __init__(self, model, pooled):
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, image):
        found = self.model(pixel_values=image)
        return found.pooler_output if self.pooled else found.last_hidden_state[:, 0]


# What comes before the last attention is only computed, and of two layers in one of them.
_SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "image_size": 28,
    "patch_size": 7,
}
_WIDE = {**_SMALL, "intermediate_size": 40}
# name -> configuration, model, whether its pooler is the embedding, the row
TRANSFORMERS = {
    "Dinov2": ({**_SMALL, "layerscale_value": 0.7}, "Dinov2Model", True, 0),
    "Dinov2 with a gated layer": ({**_SMALL, "use_swiglu_ffn": True}, "Dinov2Model", False, 0),
    "ViT": ({**_WIDE, "num_hidden_layers": 2}, "ViTModel", True, 0),
    "CLIPVision": (_WIDE, "CLIPVisionModel", True, 0),
    "SiglipVision": (_WIDE, "SiglipVisionModel", True, 0),
}


@pytest.fixture(scope="module")
def transformer():
    """`transformer("ViT")`: a small one with random weights as a network, and the row."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    made = {}

    def get(name):
        if name not in made:
            settings, kind, pooled, row = TRANSFORMERS[name]
            torch.manual_seed(0)
            config = getattr(transformers, kind.removesuffix("Model") + "Config")(**settings)
            model = getattr(transformers, kind)(config)
            for parameter in model.parameters():
                # Biases and scales that are zero or one hide mistakes.
                torch.nn.init.normal_(parameter, std=0.2)
            made[name] = TorchNetwork(_Token(model, pooled), (28, 28)), row
        return made[name]

    return get


def _last_product_of_softmax(graph):
    """The last product of an attention's weights with its values."""
    weights = {str(node.output[0]) for node in graph.node if node.op_type in ("Softmax", "Where")}
    found = [n for n in graph.node if n.op_type == "MatMul" and n.input[0] in weights]
    return str(found[-1].output[0])


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_gives_the_grad_weights_of_torch(
    name, opset, transformer, pulled_back, build_engine
):
    network, row = transformer(name)
    model = network.to_onnx(opset)
    source = _last_product_of_softmax(model.graph)
    feeds = _feeds(pulled_back, network.embedding_size, image_size=(28, 28))
    image = {"image": feeds["image"]}
    expected = pulled_back.by_interpreter(model, source, "embedding", image, feeds["direction"])
    build_engine(_check(pulled_back, model, source, "embedding", feeds, expected, row))


FROM_TORCH = [
    *("PlainConv", "Normalized", "ReciprocalRoot", "NeckNormalized", "LearnedScale", "MlpHead"),
    *("SqueezeExcite", "GlobalDepthwise", "FlattenHead", "Softmax", "RowGate", "Attentive"),
]


@pytest.mark.parametrize("name", FROM_TORCH)
def test_the_whole_map_gives_what_the_network_pulls_back(name, cut, networks, pulled_back):
    network = cut(name)
    model = network.to_onnx()
    end = find_normalization(model.graph, "embedding") or "embedding"
    size = network.embedding_size
    graph = pulled_back.grafted(model, "feature_map", end, size)
    feeds = _feeds(pulled_back, size, image_size=networks.SIZE)
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    images, direction = (torch.from_numpy(each) for each in feeds.values())
    expected = network.pull_back_map(network.forward(images), direction)
    assert pulled_back.worst(found, expected.flatten(1).numpy()) <= 1e-5


@pytest.mark.parametrize("name", ["depthwise", "neck with an L2 before it"])
def test_a_half_precision_network_gives_float32(name, head, pulled_back, build_engine):
    prepared, end = head(name)
    half = to_float16(prepared.model)
    graph = pulled_back.grafted(half, "s", end, D)
    feeds = _feeds(pulled_back, D)
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    expected = pulled_back.by_head(prepared, "s", end, *feeds.values()).reshape(3, -1)
    assert found.dtype == np.float32
    assert pulled_back.worst(found, expected) <= 1e-2
    build_engine(graph)


def test_a_half_precision_transformer_gives_float32(block, pulled_back, build_engine):
    prepared = block("class token")
    graph = pulled_back.grafted(to_float16(prepared.model), "s", "y", 6, 0)
    feeds = _feeds(pulled_back, 6)
    (found,) = pulled_back.run(graph, [pulled_back.ANSWER], feeds)
    expected = pulled_back.by_head(prepared, "s", "y", *feeds.values())[:, :, 0]
    assert pulled_back.worst(found, expected.reshape(3, -1)) <= 2e-2
    build_engine(graph)


def test_two_directions_are_pulled_back_in_one_graph(head, pulled_back):
    prepared, end = head("gate")
    graph = pulled_back.grafted(prepared.model, "s", end, D)
    other = graft_pull_back(Graft(graph.graph, 17), "s", end, "direction")
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info(end, 1, ["batch", D]))
    onnx.checker.check_model(graph, full_check=True)
    feeds = _feeds(pulled_back, D)
    first, second = pulled_back.run(graph, [pulled_back.ANSWER, other], feeds)
    assert np.array_equal(first, second)


def test_a_maximum_over_positions_is_refused_by_name(cut):
    network = cut("TwoPools")
    model = network.to_onnx()
    obstacle = obstacle_to_pull_back(model, "feature_map", "embedding")
    assert obstacle is not None
    assert obstacle.startswith(("ReduceMax (node '", "GlobalMaxPool (node '", "MaxPool (node '"))
    model.graph.input.append(helper.make_tensor_value_info("v", 1, ["batch", None]))
    with pytest.raises(FoldcamError, match="--grad-weights transferred"):
        graft_pull_back(Graft(model.graph, 18), "feature_map", "embedding", "v")


def test_a_source_that_is_not_on_the_way_is_refused(head):
    prepared, end = head("gate")
    assert "does not depend on" in str(obstacle_to_pull_back(prepared.model, end, "s"))
    assert "sizes" in str(obstacle_to_pull_back(prepared.model, "nothing", end))
    assert "no row 3" in str(obstacle_to_pull_back(prepared.model, "s", end, row=3))
