"""Attention in float16: its scores stay float32, and so does what pictures measured too great.

ONNX Runtime on a processor computes float16 in float32 and joins the casts, so that it sees no
overflow; onnx's own evaluator rounds every value to the type that the file says.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.precision import beyond_float16, to_float16

TOKENS, WIDTH = 4, 3
F16, F32 = TensorProto.FLOAT16, TensorProto.FLOAT


def _attention(great=1.0, stream=1.0, mask=False, moved=False):
    """A block of a transformer on `image [n, 3, 2, 2]`, whose 4 positions are the tokens.

    Queries and keys are `great` times as large, and the scale that follows as much smaller, and
    the residual stream is `stream` times as large: neither changes what the block answers.
    """
    generator = np.random.default_rng(0)
    node = helper.make_node
    weights = {name: generator.normal(size=(WIDTH, WIDTH)) for name in ("q", "k", "v", "o")}
    weights["q"] *= great
    weights["k"] *= great
    weights["o"] *= stream
    constants = {
        **weights,
        "stream": np.array(stream),
        "scale": np.array(0.5 / great**2),
        "gain": np.ones(WIDTH),
        "bias": np.zeros(WIDTH),
        "mask": np.zeros((TOKENS, TOKENS)),
    }
    nodes = [
        node("Mul", ["image", "stream"], ["feature_map"]),
        node("Reshape", ["feature_map", "flat"], ["columns"]),
        node("Transpose", ["columns"], ["x"], perm=[0, 2, 1]),
        node("LayerNormalization", ["x", "gain", "bias"], ["normal"], epsilon=1e-12),
        *(node("MatMul", ["normal", name], [f"{name}x"]) for name in "qkv"),
        node("Transpose", ["kx"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["qx", "kt"], ["products"]),
        node("Mul", ["products", "scale"], ["scores"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked" if mask else "scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "vx"], ["mixed"]),
        node("MatMul", ["mixed", "o"], ["out"]),
        node("Add", ["x", "out"], ["y"]),
        node("LayerNormalization", ["y", "gain", "bias"], ["last"], epsilon=1e-12),
        node("ReduceMean", ["last", "axis"], ["embedding"], keepdims=0),
    ]
    if not mask:
        nodes = [each for each in nodes if each.output[0] != "masked"]
        del constants["mask"]
    arrays = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    arrays["flat"], arrays["axis"] = np.array([0, 3, TOKENS]), np.array([1])
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("image", F32, ["n", WIDTH, 2, 2])],
        [
            helper.make_tensor_value_info("feature_map", F32, ["n", WIDTH, 2, 2]),
            helper.make_tensor_value_info("embedding", F32, ["n", WIDTH]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _images(seed):
    return np.random.default_rng(seed).normal(size=(6, WIDTH, 2, 2)).astype(np.float32)


def _embedding(model, images):
    with np.errstate(all="ignore"):
        return onnx.reference.ReferenceEvaluator(model).run(["embedding"], {"image": images})[0]


def _types(model):
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in typed.value_info}


@pytest.mark.parametrize("mask", [False, True])
def test_scores_are_float32_from_the_product_to_the_softmax(mask):
    types = _types(to_float16(_attention(mask=mask)))
    single = {"products", "scores", "weights"} | ({"masked"} if mask else set())
    assert {name for name in types if types[name] == F32} >= single
    # What comes before and behind is float16: products with weights, and the weighted sum.
    halves = {f"{name}.float16" for name in ("qx", "kx", "vx", "mixed", "out")}
    assert {name for name in types if types[name] == F16} >= halves


def test_a_cast_has_another_name_than_the_node_whose_value_it_casts():
    """ONNX Runtime refuses two nodes of one name; exporters name nodes as their outputs."""
    model = _attention()
    for node in model.graph.node:
        node.name = node.output[0]
    names = [node.name for node in to_float16(model).graph.node]
    assert len(set(names)) == len(names)
    onnxruntime.InferenceSession(to_float16(model).SerializeToString())


def test_products_of_queries_and_keys_beyond_float16_are_no_trouble():
    """They reach 100,000 and more, and the scale behind them makes them small again."""
    images, model = _images(1), _attention(great=300.0)
    assert np.isfinite(_embedding(to_float16(model), images)).all()
    np.testing.assert_allclose(
        _embedding(to_float16(model), images), _embedding(_attention(), images), atol=5e-3
    )


def test_a_residual_stream_beyond_float16_is_measured_and_stays_float32():
    model, others = _attention(stream=1e6), _images(2)
    assert not np.isfinite(_embedding(to_float16(model), others)).all()
    wide = beyond_float16(model, _images(1))
    assert wide == {"feature_map", "columns", "x", "out", "y"}
    half = to_float16(model, wide=wide)
    types = _types(half)
    assert all(types.get(name, F32) == F32 for name in wide)
    assert types["qx.float16"] == F16
    np.testing.assert_allclose(
        _embedding(half, others), _embedding(_attention(), others), atol=5e-3
    )


@pytest.mark.parametrize(("magnitude", "found"), [(16_000.0, False), (17_000.0, True)])
def test_a_quarter_of_float16s_range_is_left_to_other_pictures(magnitude, found):
    """A Relu of one value; an empty slice beside it, as exporters leave some, is no trouble."""
    nodes = [
        helper.make_node("Relu", ["image"], ["feature_map"]),
        helper.make_node("Slice", ["feature_map", "zero", "zero", "one"], ["nothing"]),
        helper.make_node("Concat", ["feature_map", "nothing"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", F32, ["n", 1, 1, 1])],
        [helper.make_tensor_value_info("embedding", F32, None)],
        [
            onnx.numpy_helper.from_array(np.array([0]), "zero"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    image = np.full((1, 1, 1, 1), magnitude, np.float32)
    wanted = {"feature_map", "embedding"} if found else set()
    assert beyond_float16(model, np.concatenate([np.zeros_like(image), image])) == wanted


@pytest.mark.parametrize("wide", [False, True])
def test_tensorrt_rtx_builds_it(wide):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")
    model = _attention(stream=1e6 if wide else 1.0, mask=True)
    half = to_float16(model, wide=beyond_float16(model, _images(1)))
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, builder.logger)
    assert parser.parse(half.SerializeToString()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *[(n, WIDTH, 2, 2) for n in (1, 2, 4)])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
