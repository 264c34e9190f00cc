"""Which values of a network leave the range of float16, measured on pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.float32_steps import FLOAT16_MAX
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.types import value_types

HEADROOM = 4.0
"""How much greater the values of other pictures may be than those of the ones measured."""
_BATCH = 8
_OWN = "foldcam.range."


def beyond_float16(
    model: onnx.ModelProto, images: npt.NDArray[np.float32], device: Device = CPU
) -> frozenset[str]:
    """The float32 values whose greatest magnitude is above a quarter of what float16 holds.

    Args:
        images: `float32 [n, 3, H, W]`, as the network takes them.

    Returns:
        Names of values of the graph; those of subgraphs, which stay float32, are left out.
    """
    types = value_types(model)
    names = [
        name
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name and types.get(name) == TensorProto.FLOAT
    ]
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    zero = f"{_OWN}zero"
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), zero))
    for name in names:
        flat, some, magnitude, most = (f"{_OWN}{name}.{part}" for part in range(4))
        # With a zero beside them, because exporters leave slices of nothing in a graph.
        graph.node.extend(
            [
                helper.make_node("Flatten", [name], [flat], axis=0),
                helper.make_node("Concat", [flat, zero], [some], axis=1),
                helper.make_node("Abs", [some], [magnitude]),
                helper.make_node("ReduceMax", [magnitude], [most], keepdims=0),
            ]
        )
    outputs = [f"{_OWN}{name}.3" for name in names]
    session = GraphSession(measured, outputs, device)
    parts = [session.run(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    greatest = np.max(np.array(parts, np.float64), axis=0)
    return frozenset(
        name for name, most in zip(names, greatest, strict=True) if most > FLOAT16_MAX / HEADROOM
    )
