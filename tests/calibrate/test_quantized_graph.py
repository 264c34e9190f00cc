"""Where Q and DQ stand, what they hold, and that TensorRT RTX builds the result."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.calibrate.placement import find_placement
from foldcam.calibrate.qdq import Recipe, float16_steps, quantize, step_for, with_float16
from foldcam.calibrate.tuning import bias_corrections
from foldcam.export.onnx_graphs.writing import PREFIX


def _quantized(model, target="tensorrt", **more):
    placement = find_placement(model, target)
    steps = {name: step_for(4.0, negative=True, target=target) for name in placement.tensors(model)}
    made = quantize(model, placement, Recipe(steps, **more))
    onnx.checker.check_model(made, full_check=True)
    return made


def _producer(model, name):
    return next((node for node in model.graph.node if name in node.output), None)


def test_layers_read_rounded_inputs_and_weights_and_float_biases(make_model):
    made = _quantized(make_model())
    for name in ("first", "second", "third", "fc"):
        node = next(node for node in made.graph.node if node.name == name)
        assert [_producer(made, i).op_type for i in node.input[:2]] == ["DequantizeLinear"] * 2
    first = next(node for node in made.graph.node if node.name == "first")
    assert first.input[2] == "first.bias"


def test_the_identity_of_a_residual_add_is_rounded_and_its_branch_is_not(make_model):
    made = _quantized(make_model())
    join = next(node for node in made.graph.node if node.name == "join")
    assert _producer(made, join.input[0]).op_type == "DequantizeLinear"
    assert join.input[1] == "e"
    kept = _quantized(make_model(), kept=frozenset({"third"}))
    assert list(next(node for node in kept.graph.node if node.name == "join").input) == ["d", "e"]
    both = _quantized(make_model(), "cpu")
    join = next(node for node in both.graph.node if node.name == "join")
    assert [_producer(both, i).op_type for i in join.input] == ["DequantizeLinear"] * 2


def test_what_was_grafted_is_left_alone(make_model):
    model = make_model(neighbors=3)
    made = _quantized(model)
    grafted = [n.SerializeToString() for n in model.graph.node if n.name.startswith(PREFIX)]
    assert grafted == [n.SerializeToString() for n in made.graph.node if n.name.startswith(PREFIX)]


def test_zero_points_are_zero_names_are_unique_and_no_integer_is_wider_than_int8(make_model):
    made = _quantized(make_model())
    pairs = [n for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert len({node.name for node in pairs}) == len(pairs)
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
        stored = constants.get(node.input[0])
        assert stored is None or stored.dtype == np.int8


def test_a_correction_restores_the_mean_that_rounding_took(hand_built):
    """One 1x1 convolution with groups: the mean output is the weights times the mean input."""
    from foldcam.calibrate.qdq import Recipe, nearest_levels, weight_scales
    from foldcam.calibrate.statistics import _Counter

    generator = np.random.default_rng(0)
    weight = generator.normal(size=(4, 2, 1, 1)).astype(np.float32)
    images = generator.uniform(0, 2, (5, 4, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=2)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    counter = _Counter()
    counter.add(images)
    activations = {"x": counter.activation()}
    found = bias_corrections(model, find_placement(model), activations, Recipe({}))["conv"]
    scales = weight_scales(weight, 0)
    levels = nearest_levels(weight, 0, scales)
    lost = (weight - levels * scales.reshape(-1, 1, 1, 1))[:, :, 0, 0]
    for channel in range(4):
        inputs = images[:, 2 * (channel // 2) : 2 * (channel // 2) + 2]
        wanted = np.einsum("i,nihw->nhw", lost[channel], inputs).mean()
        assert found[channel] == pytest.approx(wanted, rel=1e-4)


VARIANTS = {
    "plain": {},
    "uint8": {"input_type": "uint8", "neighbors": 5, "transfer": 2},
    "input size": {"heatmap_size": "input"},
}


@pytest.mark.parametrize("kept", [frozenset(), frozenset({"second"})])
@pytest.mark.parametrize("name", VARIANTS)
def test_tensorrt_rtx_builds_it_and_the_checker_finds_nothing(name, kept, make_model, tmp_path):
    from foldcam.export.verification.check.checker import check_model
    from foldcam.export.verification.check.targets import TARGETS

    made = _quantized(make_model(**VARIANTS[name]), kept=kept)
    _check_builds(made)
    onnx.save(made, tmp_path / "m.onnx")
    modern = [target for target in TARGETS if target.version >= (10, 3)]
    assert check_model(tmp_path / "m.onnx", modern).passed


def _check_builds(made):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: foldcam[rtx]")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(made.SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    image = network.get_input(0)
    rest = list(image.shape)[1:]
    profile.set_shape(image.name, [1, *rest], [2, *rest], [4, *rest])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_float16_stands_behind_explicit_casts_and_nothing_comes_between_layer_and_rounding(
    make_model, tmp_path
):
    """`second` is kept in float: it alone is float16, cast to and from float32 at its ends."""
    from foldcam.export.verification.check.checker import check_model
    from foldcam.export.verification.check.targets import TARGETS

    made = with_float16(_quantized(make_model(), kept=frozenset({"second"})))
    onnx.checker.check_model(made, full_check=True)
    by_name = {node.name: node for node in made.graph.node}
    assert _producer(made, by_name["second"].input[0]).op_type == "Cast"
    # Its ReLU follows in float16; the next Q takes float32 again.
    relu = by_name["relu2"]
    assert relu.input[0] == by_name["second"].output[0]
    for name in ("first", "third", "fc"):
        node = by_name[name]
        assert [_producer(made, i).op_type for i in node.input[:2]] == ["DequantizeLinear"] * 2
    assert _producer(made, "b").op_type == "Relu"
    rounded = next(n for n in made.graph.node if n.op_type == "QuantizeLinear" and
                   n.output[0].startswith("d."))  # fmt: skip
    assert _producer(made, rounded.input[0]).op_type == "Cast"
    assert float16_steps(made) == 2
    _check_builds(made)
    onnx.save(made, tmp_path / "m.onnx")
    modern = [target for target in TARGETS if target.version >= (10, 3)]
    assert check_model(tmp_path / "m.onnx", modern).passed
