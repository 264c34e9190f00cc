"""Cross-layer equalization: the same answers to the bit, evener ranges, and what is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.equalize import equalized, find_pairs, scales_for
from calibrate.placement import find_placement
from calibrate.statistics import _Counter

IMAGES = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)


def _chain(hand_built, between, *, outlier=40.0, read_twice=False):
    """pointwise -> `between` -> depthwise -> Relu -> pointwise, some channels far greater."""
    generator = np.random.default_rng(1)
    first = generator.normal(size=(4, 3, 1, 1)) * np.array([outlier, 1, 0.1, 0.02]).reshape(
        -1, 1, 1, 1
    )
    constants = {
        "first.weight": first.astype(np.float32),
        "first.bias": (generator.normal(size=4) * 0.01).astype(np.float32),
        "depthwise.weight": generator.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "last.weight": generator.normal(size=(5, 4, 1, 1)).astype(np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "first.weight", "first.bias"], ["a"], name="first"),
        node(between, ["a", "zero", "six"] if between == "Clip" else ["a"], ["b"], name="act"),
        node("Conv", ["b", "depthwise.weight"], ["c"], name="depthwise", group=4, pads=[1] * 4),
        node("Relu", ["c"], ["d"], name="relu"),
        node("Conv", ["d", "last.weight"], ["feature_map"], name="last"),
        node("GlobalAveragePool", ["feature_map"], ["e"], name="pool"),
        node("Flatten", ["e"], ["f"], name="flat"),
    ]
    if read_twice:
        nodes.append(node("GlobalMaxPool", ["b"], ["other"], name="reader"))
        nodes.append(node("Flatten", ["other"], ["g"], name="flat2"))
        nodes.append(node("Concat", ["f", "g"], ["embedding"], name="both", axis=1))
    else:
        nodes.append(node("Identity", ["f"], ["embedding"], name="same"))
    if between != "Clip":
        constants = {name: v for name, v in constants.items() if name not in ("zero", "six")}
    size = 9 if read_twice else 5
    return hand_built.model(
        nodes, constants, {"feature_map": [5, 8, 8], "embedding": [size]}, (3, 8, 8)
    )


def _statistics(hand_built, model, names):
    """Of inner values, by running the model with them as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    values = hand_built.run(copy, IMAGES)
    counters = {}
    for name in names:
        counters[name] = _Counter()
        counters[name].add(values[name])
    return {name: counter.activation() for name, counter in counters.items()}


def _equalize(hand_built, model):
    pairs = find_pairs(model, find_placement(model))
    found = _statistics(hand_built, model, [pair.source for pair in pairs])
    made, changed = equalized(model, pairs, found)
    onnx.checker.check_model(made, full_check=True)
    return pairs, found, made, changed


@pytest.mark.parametrize("between", ["Relu", "Clip", "LeakyRelu", "Identity"])
def test_the_answers_stay_the_same_to_the_bit(hand_built, between):
    model = _chain(hand_built, between)
    pairs, _, made, changed = _equalize(hand_built, model)
    assert [pair.source for pair in pairs] == ["b", "d"]
    assert changed == 2
    expected, got = hand_built.run(model, IMAGES), hand_built.run(made, IMAGES)
    for name in ("feature_map", "embedding"):
        assert (expected[name] == got[name]).all()


def test_before_a_depthwise_convolution_all_ranges_become_nearly_one(hand_built):
    model = _chain(hand_built, "Relu", outlier=3.0)
    _, found, made, _ = _equalize(hand_built, model)
    before = found["b"].channel_greatest
    after = _statistics(hand_built, made, ["b"])["b"].channel_greatest
    assert 32 < before.max() / before.min() < 256
    assert after.max() == before.max()
    # Powers of two, of which the least that does: within a factor of two of the greatest.
    assert after.min() > after.max() / 2
    # Nothing reads the old weights any more.
    assert "first.weight" not in {tensor.name for tensor in made.graph.initializer}


def test_a_channel_that_reaches_the_bound_of_a_clip_keeps_its_scale(hand_built):
    model = _chain(hand_built, "Clip")
    pairs, found, made, _ = _equalize(hand_built, model)
    assert pairs[0].bound == 6.0
    after = _statistics(hand_built, made, ["b"])["b"].channel_greatest
    reached = found["b"].channel_greatest >= 6
    assert reached.any()
    assert (after[reached] == 6).all()
    assert (after[~reached] < 0.9 * 6 + 1e-6).all()


def test_what_somebody_else_reads_is_left_alone(hand_built):
    model = _chain(hand_built, "Relu", read_twice=True)
    assert [pair.source for pair in find_pairs(model, find_placement(model))] == ["d"]


def test_the_scales_by_hand():
    assert scales_for([8, 1, 0.5], [1, 1, 1], alone=True, bound=None).tolist() == [1, 1 / 8, 1 / 16]
    # Channels without values or without weights are left alone.
    assert scales_for([8, 0, 1], [1, 1, 0], alone=True, bound=None).tolist() == [1, 1, 1]
    # sqrt(16) = 4 against sqrt(1) = 1, divided so that the greatest range stays 16.
    assert scales_for([16, 1], [1, 1], alone=False, bound=None).tolist() == [1, 0.25]
    # 8 is the bound; 1/8 of it would fill the range to the brim, so it is 1/4.
    assert scales_for([8, 1], [1, 1], alone=True, bound=8.0).tolist() == [1, 0.25]


def test_groups_read_their_own_channels(hand_built):
    """Two groups of two: the second group's inputs are a hundred times smaller."""
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(4, 3, 1, 1)).astype(np.float32)
    weight[2:] /= 100
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "v"], ["feature_map"], name="grouped", group=2),
        node("GlobalAveragePool", ["feature_map"], ["e"], name="pool"),
        node("Flatten", ["e"], ["embedding"], name="flat"),
    ]
    constants = {"w": weight, "v": generator.normal(size=(6, 2, 1, 1)).astype(np.float32)}
    model = hand_built.model(
        nodes, constants, {"feature_map": [6, 8, 8], "embedding": [6]}, (3, 8, 8)
    )
    _, _, made, changed = _equalize(hand_built, model)
    assert changed == 1
    expected, got = hand_built.run(model, IMAGES), hand_built.run(made, IMAGES)
    assert (expected["embedding"] == got["embedding"]).all()


@pytest.mark.parametrize("kind", ["Gemm", "Gemm transB", "MatMul"])
def test_a_layer_norm_before_linear_layers_and_linear_layers_alike(hand_built, kind):
    """LayerNormalization -> two readers; Gemm -> Relu -> Gemm."""
    generator = np.random.default_rng(3)
    node = helper.make_node
    turned = kind == "Gemm transB"
    operator = kind.split()[0]
    extra = {"transB": 1} if turned else {}

    def weight(inputs, outputs):
        values = generator.normal(size=(inputs, outputs)).astype(np.float32)
        return np.ascontiguousarray(values.T) if turned else values

    scale = np.array([50, 1, 0.2, 1], np.float32)
    nodes = [
        node("GlobalAveragePool", ["image"], ["p"], name="pool"),
        node("Flatten", ["p"], ["q"], name="flat"),
        node("Gemm", ["q", "up"], ["x"], name="up"),
        node("LayerNormalization", ["x", "scale", "shift"], ["n"], name="norm"),
        node(operator, ["n", "w1"], ["y1"], name="one", **extra),
        node(operator, ["n", "w2"], ["y2"], name="two", **extra),
        node("Add", ["y1", "y2"], ["embedding"], name="sum"),
        node("Relu", ["image"], ["feature_map"], name="map"),
    ]
    constants = {
        "up": generator.normal(size=(3, 4)).astype(np.float32),
        "scale": scale,
        "shift": generator.normal(size=4).astype(np.float32),
        "w1": weight(4, 2),
        "w2": weight(4, 2),
    }
    model = hand_built.model(
        nodes, constants, {"feature_map": [3, 8, 8], "embedding": [2]}, (3, 8, 8)
    )
    pairs, _, made, changed = _equalize(hand_built, model)
    assert ([pair.source for pair in pairs], changed) == (["n"], 1)
    assert len(pairs[0].readers) == 2
    expected, got = hand_built.run(model, IMAGES), hand_built.run(made, IMAGES)
    np.testing.assert_allclose(got["embedding"], expected["embedding"], rtol=1e-5)


def test_a_weight_that_two_layers_share_is_changed_for_one_only(hand_built):
    generator = np.random.default_rng(4)
    shared = generator.normal(size=(3, 3, 1, 1)).astype(np.float32)
    shared[0] *= 50
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "w"], ["feature_map"], name="second"),
        node("GlobalAveragePool", ["feature_map"], ["e"], name="pool"),
        node("Flatten", ["e"], ["embedding"], name="flat"),
    ]
    model = hand_built.model(
        nodes, {"w": shared}, {"feature_map": [3, 8, 8], "embedding": [3]}, (3, 8, 8)
    )
    _, _, made, changed = _equalize(hand_built, model)
    assert changed == 1
    expected, got = hand_built.run(model, IMAGES), hand_built.run(made, IMAGES)
    assert (expected["embedding"] == got["embedding"]).all()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert len(stored) == 2
