"""Graphs are said in operators that every TensorRT reads, without other values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.rewrites import global_pools, sizes_of


def _pool(**attributes):
    node = helper.make_node("AveragePool", ["x"], ["y"], **attributes)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, *size])
        for name, size in (("x", (3, 5)), ("y", (None, None)))
    ]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize(
    ("attributes", "becomes"),
    [
        ({"kernel_shape": [3, 5]}, "GlobalAveragePool"),
        ({"kernel_shape": [3, 5], "pads": [0, 0, 0, 0], "auto_pad": "NOTSET"}, "GlobalAveragePool"),
        ({"kernel_shape": [2, 5]}, "AveragePool"),
        ({"kernel_shape": [3, 3]}, "AveragePool"),
        ({"kernel_shape": [3, 5], "pads": [1, 0, 1, 0], "strides": [3, 5]}, "AveragePool"),
        ({"kernel_shape": [3, 5], "auto_pad": "SAME_UPPER"}, "AveragePool"),
    ],
)
def test_only_a_window_over_the_whole_map_is_global(attributes, becomes):
    model = _pool(**attributes)
    images = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    expected = _run(model, images)
    sizes = {**sizes_of(model.graph), "x": [0, 4, 3, 5]}
    global_pools(model.graph, sizes)
    assert model.graph.node[0].op_type == becomes
    np.testing.assert_allclose(_run(model, images), expected, rtol=1e-5)


def test_a_window_far_beyond_the_map_is_the_mean():
    model = _pool(kernel_shape=[640, 640], strides=[640, 640], ceil_mode=1)
    global_pools(model.graph, {"x": [0, 4, 3, 5], "y": [0, 4, 1, 1]})
    images = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)
    expected = images.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(_run(model, images), expected, rtol=1e-5, atol=1e-6)
