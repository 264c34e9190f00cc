"""Weights rounded so that their errors make up for each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from foldcam.calibrate.gptq import _Inputs, compensated_levels, gptq_levels
from foldcam.calibrate.graph import GraphView, with_outputs
from foldcam.calibrate.placement import Placement, find_placement
from foldcam.calibrate.qdq import Recipe, nearest_levels, weight_scales
from foldcam.calibrate.session import Runner
from foldcam.export.grafting.in_graph import contract_of


def _nearest(weight, axis):
    return nearest_levels(weight, axis, weight_scales(weight, axis))


def test_inputs_that_know_nothing_of_each_other_are_rounded_to_the_nearest_level():
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    covariance = np.diag(np.arange(1.0, 8.0))[None]
    assert np.array_equal(compensated_levels(weight, 0, covariance), _nearest(weight, 0))


def test_of_equal_inputs_the_second_makes_up_for_the_first():
    """Both weights are 0.4 levels; inputs that are always equal see their sum, 0.8: one level."""
    weight = np.array([[127, 0.4, 0.4]], np.float32)
    covariance = np.array([[[4.0, 0, 0], [0, 1, 1], [0, 1, 1]]])
    assert np.array_equal(_nearest(weight, 0), [[127, 0, 0]])
    found = compensated_levels(weight, 0, covariance)[0]
    assert (found[0], found[1] + found[2]) == (127, 1)


def test_opposite_inputs_lose_in_the_same_direction():
    weight = np.array([[127, 0.6, 0.6]], np.float32)
    covariance = np.array([[[4.0, 0, 0], [0, 1, -1], [0, -1, 1]]])
    found = compensated_levels(weight, 0, covariance)[0]
    # They cancel each other, whatever the two are, as long as they are alike.
    assert found[1] == found[2]


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [
        ((8, 12), 0, 1),
        ((12, 8), 1, 1),
        ((8, 6, 2, 1), 0, 1),
        ((8, 3, 2, 1), 0, 4),
        ((8, 1, 3, 3), 0, 8),
    ],
)
def test_the_outputs_change_less_than_by_the_nearest_levels(shape, axis, groups):
    generator = np.random.default_rng(1)
    weight = generator.normal(size=shape).astype(np.float32)
    inputs = weight[0].size if axis == 0 else len(weight)
    mixing = generator.normal(size=(groups, inputs, 3))
    covariance = mixing @ mixing.transpose(0, 2, 1) + 0.01 * np.eye(inputs)

    def lost(levels):
        spread = [1] * weight.ndim
        spread[axis] = -1
        error = weight - levels * weight_scales(weight, axis).reshape(spread)
        rows = (error if axis == 0 else error.T).reshape(groups, -1, inputs)
        return float(np.einsum("gon,gnm,gom->", rows, covariance, rows))

    levels = compensated_levels(weight, axis, covariance)
    assert levels.dtype == np.int8
    assert levels.shape == weight.shape
    assert lost(levels) < 0.5 * lost(_nearest(weight, axis))


def test_an_input_that_never_varies_is_no_trouble():
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert np.array_equal(compensated_levels(weight, 0, np.zeros((1, 3, 3))), _nearest(weight, 0))


def test_what_rounding_leaves_of_a_covariance_is_no_trouble_either():
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    covariance = np.diag([-1e-9, 2e-10, -3e-10])[None]
    assert np.array_equal(compensated_levels(weight, 0, covariance), _nearest(weight, 0))


CONVOLUTIONS = [
    {},
    {"stride": (2, 1), "padding": (1, 2)},
    {"groups": 2, "padding": (1, 1)},
    {"groups": 4, "dilation": (2, 1)},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_a_convolution_reads_what_torch_says_it_reads(settings):
    """Columns times weights are its outputs, all of them, in some order."""
    groups = settings.get("groups", 1)
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(4, 4 // groups, 3, 2)).astype(np.float32)
    values = generator.normal(size=(3, 4, 8, 7)).astype(np.float32)
    down, across = settings.get("padding", (0, 0))
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        name="conv",
        group=groups,
        strides=list(settings.get("stride", (1, 1))),
        dilations=list(settings.get("dilation", (1, 1))),
        pads=[down, across, down, across],
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (layer,) = find_placement(model).layers
    columns = _Inputs.of(GraphView(model), layer).columns(values, 0)
    rows = weight.reshape(groups, 4 // groups, -1)
    found = np.einsum("gsn,gon->gos", columns, rows).reshape(4, -1)
    wanted = torch.nn.functional.conv2d(
        torch.from_numpy(values), torch.from_numpy(weight), **settings
    ).numpy()
    wanted = wanted.transpose(1, 0, 2, 3).reshape(4, -1)
    assert found.shape == wanted.shape
    assert np.allclose(np.sort(found, axis=1), np.sort(wanted, axis=1), atol=1e-5)


def test_every_layer_is_rounded_and_its_output_changes_less(make_model):
    model = make_model()
    contract, placement = contract_of(model), find_placement(model)
    images = np.random.default_rng(5).integers(0, 255, (24, 16, 16, 3)).astype(np.uint8)
    levels = gptq_levels(model, contract, placement, images)
    assert set(levels) == {layer.name for layer in placement.layers}
    again = gptq_levels(model, contract, placement, images)
    assert all(np.array_equal(levels[name], again[name]) for name in levels)
    (last,) = [layer for layer in placement.layers if layer.operator == "Gemm"]
    weight = GraphView(model).floats(last.weight)
    inputs = Runner(with_outputs(model, [last.source]), contract).all(images)[last.source]
    centred = inputs - inputs.mean(axis=0)

    def lost(recipe):
        found, scales = recipe.rounded(last, weight)
        return float((((weight - found * scales[:, None]) @ centred.T) ** 2).sum())

    assert lost(Recipe({}, levels=levels)) < lost(Recipe({}))


def test_layers_that_pad_by_a_rule_keep_the_nearest(make_model):
    model = make_model()
    for node in model.graph.node:
        if node.name == "second":
            del node.attribute[:]
            node.attribute.extend(
                [
                    helper.make_attribute("auto_pad", "SAME_UPPER"),
                    helper.make_attribute("strides", [2, 2]),
                ]
            )
    images = np.random.default_rng(5).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8)
    placement = find_placement(model)
    levels = gptq_levels(model, contract_of(model), placement, images)
    assert set(levels) == {layer.name for layer in placement.layers} - {"second"}


def test_layers_that_share_a_weight_keep_the_nearest(make_model):
    model = make_model()
    placement = find_placement(model)
    first = placement.layers[0]
    shared = Placement((*placement.layers, replace(first, name="again")), placement.joins)
    images = np.random.default_rng(5).integers(0, 255, (8, 16, 16, 3)).astype(np.uint8)
    levels = gptq_levels(model, contract_of(model), shared, images)
    assert set(levels) == {layer.name for layer in placement.layers} - {first.name}
