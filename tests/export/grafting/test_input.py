"""uint8 images: normalised in the graph, in the first convolution where that is exact."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.onnx_graphs.normalization import find_normalization
from foldcam.runtime.images.preprocess import Preprocessing

HEIGHT, WIDTH = 9, 11
RECIPE = {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4)}
OUTPUTS = ("embedding", "heatmap", "neighbor", "similarity")

# Attributes of the first convolution; whether its padding leaves an addition to do.
CONVOLUTIONS = {
    "no padding": ({}, False),
    "strides": ({"strides": [2, 3]}, False),
    "dilations": ({"dilations": [2, 2]}, False),
    "explicit zeros": ({"pads": [0, 0, 0, 0]}, False),
    "padding": ({"pads": [1, 1, 1, 1]}, True),
    "asymmetric": ({"pads": [0, 2, 1, 0], "strides": [2, 2]}, True),
    "one side": ({"pads": [0, 0, 0, 1]}, True),
    "valid": ({"auto_pad": "VALID"}, False),
    "same upper": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, True),
    "same lower": ({"auto_pad": "SAME_LOWER"}, True),
}


def _network(hand_built, settings, group=1, bias=True, branch=(), weights=None):
    """A convolution on the image, ReLU, average pool, linear; `branch` joins the embedding."""
    generator = np.random.default_rng(1)
    if weights is None:
        weights = generator.normal(size=(6, 3 // group, 3, 3))
    constants = {
        "w": weights.astype(np.float32),
        "b": generator.normal(size=6).astype(np.float32),
        "fc": generator.normal(size=(6, 3)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    inputs = ["image", "w", "b"] if bias else ["image", "w"]
    nodes = [
        helper.make_node("Conv", inputs, ["raw"], group=group, **settings),
        helper.make_node("Relu", ["raw"], ["feature_map"]),
        helper.make_node("ReduceMean", ["feature_map", "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "fc"], ["z"]),
        *branch,
    ]
    nodes[-1].output[0] = "embedding"
    if not bias:
        del constants["b"]
    shape = _map_shape(settings)
    sizes = {"feature_map": [6, *shape], "embedding": [3]}
    return hand_built.model(nodes, constants, sizes, (3, HEIGHT, WIDTH))


def _map_shape(settings):
    probe = helper.make_node("Conv", ["x", "w"], ["y"], **settings)
    graph = helper.make_graph(
        [probe],
        "g",
        [
            helper.make_tensor_value_info("x", 1, [1, 3, HEIGHT, WIDTH]),
            helper.make_tensor_value_info("w", 1, [6, 3, 3, 3]),
        ],
        [helper.make_tensor_value_info("y", 1, [None] * 4)],
    )
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph), data_prop=True)
    return [dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim[2:]]


def _folded(model, recipe, random_bank, hand_built, **options):
    return fold(
        model,
        random_bank(7, 3, 6),
        preprocessing=recipe,
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={},
        options=FoldOptions(neighbors=2, **options),
    )


def _pixels(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def _operators(model):
    """Of the graph, but for the bank's: counted up to the first convolution."""
    names = [node.op_type for node in model.graph.node]
    end = names.index("Conv") if "Conv" in names else len(names)
    return Counter(names[:end])


def _assert_equal_paths(model, recipe, random_bank, hand_built):
    """Both inputs of one network; returns the uint8 one."""
    pixels = _pixels()
    made = _folded(model, recipe, random_bank, hand_built, input_type="uint8")
    floats = _folded(model, recipe, random_bank, hand_built)
    got = hand_built.run(made, pixels)
    expected = hand_built.run(floats, recipe.normalized(pixels))
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, rtol=1e-5, err_msg=name)
    assert made.graph.node[0].op_type == "Cast"
    swapped = hand_built.run(made, np.ascontiguousarray(pixels[..., ::-1]))
    assert np.abs(swapped["embedding"] - expected["embedding"]).max() > 1e-2
    return made


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_the_first_convolution_absorbs_the_normalisation(
    color, bias, name, random_bank, hand_built
):
    settings, padded = CONVOLUTIONS[name]
    recipe = Preprocessing(WIDTH, HEIGHT, color=color, **RECIPE)
    model = _network(hand_built, settings, bias=bias)
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert _operators(made) == Counter(Cast=1, Transpose=1, Add=int(padded))


@pytest.mark.parametrize("name", ["no padding", "padding"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_channels_with_weights_of_their_own_are_swapped_before(
    color, name, random_bank, hand_built
):
    settings, padded = CONVOLUTIONS[name]
    recipe = Preprocessing(WIDTH, HEIGHT, color=color, **RECIPE)
    model = _network(hand_built, settings, group=3)
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    expected = Counter(Cast=1, Transpose=1, Add=int(padded), Gather=int(color == "bgr"))
    assert _operators(made) == expected


def test_the_absorbed_weights_are_those_of_paper_and_pencil(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, mean=(0.5, 0.25, 0), std=(1 / 255, 2 / 255, 4 / 255))
    weights = np.zeros((6, 3, 3, 3))
    weights[0, :, 1, 1] = [1, 1, 1]
    weights[1, :, 1, 1] = [0, 8, 4]
    made = _folded(
        _network(hand_built, {}, bias=False, weights=weights),
        recipe,
        random_bank,
        hand_built,
        input_type="uint8",
    )
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    absorbed = constants["foldcam.first_weights"][:2, :, 1, 1]
    np.testing.assert_array_equal(absorbed, [[1, 0.5, 0.25], [0, 4, 1]])
    # -(0.5 * 255) - 0.25 * 255 / 2, and -8 * 0.25 * 255 / 2.
    np.testing.assert_array_equal(constants["foldcam.first_bias"][:3], [-159.375, -255, 0])
    assert "w" not in constants


def test_without_a_mean_padding_needs_no_addition(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, mean=(0, 0, 0), std=(0.2, 0.3, 0.4))
    model = _network(hand_built, {"pads": [1, 1, 1, 1]})
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert _operators(made) == Counter(Cast=1, Transpose=1)


def _sum_of_image():
    return [
        helper.make_node("ReduceMean", ["image", "axes"], ["brightness"], keepdims=0),
        helper.make_node("Add", ["z", "brightness"], [""]),
    ]


def _weights_used_again():
    return [
        helper.make_node("ReduceMax", ["w"], ["greatest"], keepdims=0),
        helper.make_node("Mul", ["z", "greatest"], [""]),
    ]


def _batch_size():
    return [
        helper.make_node("Shape", ["image"], ["count"], start=0, end=1),
        helper.make_node("Cast", ["count"], ["number"], to=1),
        helper.make_node("Div", ["z", "number"], [""]),
    ]


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_an_image_that_two_steps_read_is_normalised_before(color, random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, color=color, **RECIPE)
    model = _network(hand_built, {}, branch=_sum_of_image())
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert _operators(made) == Counter(
        Cast=1, Transpose=1, Mul=1, Add=1, Gather=int(color == "bgr")
    )


def test_a_step_that_asks_only_for_the_number_of_images_is_in_nobodys_way(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, **RECIPE)
    model = _network(hand_built, {}, branch=_batch_size())
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert _operators(made) == Counter(Cast=1, Transpose=1)


def test_weights_that_another_step_uses_keep_their_values_there(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, **RECIPE)
    model = _network(hand_built, {}, branch=_weights_used_again())
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert "w" in {tensor.name for tensor in made.graph.initializer}
    assert _operators(made) == Counter(Cast=1, Transpose=1)


def test_computed_weights_are_left_alone(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, **RECIPE)
    model = _network(hand_built, {})
    model.graph.node.insert(0, helper.make_node("Neg", ["w"], ["negative"]))
    model.graph.node[1].input[1] = "negative"
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert {"Mul", "Add"} < set(_operators(made))


def test_a_first_step_that_is_no_convolution_is_left_alone(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, **RECIPE)
    model = _network(hand_built, {})
    model.graph.node.insert(0, helper.make_node("Abs", ["image"], ["positive"]))
    model.graph.node[1].input[0] = "positive"
    made = _assert_equal_paths(model, recipe, random_bank, hand_built)
    assert {"Mul", "Add", "Abs"} < set(_operators(made))


def test_a_float16_network_is_normalised_in_float32(random_bank, hand_built):
    recipe = Preprocessing(WIDTH, HEIGHT, **RECIPE)
    model = _network(hand_built, {})
    made = _folded(model, recipe, random_bank, hand_built, input_type="uint8", precision="fp16")
    # Weights over 255 would lose digits in float16.
    assert _operators(made) == Counter(Cast=2, Transpose=1, Mul=1, Add=1)
    got = hand_built.run(made, _pixels())
    exact = hand_built.run(
        _folded(model, recipe, random_bank, hand_built), recipe.normalized(_pixels())
    )
    np.testing.assert_allclose(got["embedding"], exact["embedding"], atol=2e-2)


def test_folding_leaves_the_network_that_was_given_alone(random_bank, hand_built):
    model = _network(hand_built, {})
    before = model.SerializeToString(deterministic=True)
    _folded(model, Preprocessing(WIDTH, HEIGHT), random_bank, hand_built, input_type="uint8")
    assert model.SerializeToString(deterministic=True) == before
    assert find_normalization(model.graph, "embedding") is None
