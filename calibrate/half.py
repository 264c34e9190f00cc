"""Float16 for what is not quantized: layers kept in float, products of two activations, softmax.

TensorRT 11 and RTX are strongly typed, so the types stand in the graph, with a cast where they
change. Q, DQ and the quantized layers between them stay float32 on paper: their kernels take
int8 and return it, and a cast between such a layer, its activation and the next Q would keep
TensorRT from joining them.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from foldcam.calibrate.graph import is_grafted
from foldcam.export.onnx_graphs.precision import to_float16

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}
# Cheap steps that TensorRT joins with the quantized layer in front of them.
_JOINED = {
    "Add", "BatchNormalization", "Clip", "Div", "Erf", "Flatten", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Mul", "PRelu", "Relu", "Reshape", "Sigmoid", "Squeeze",
    "Sub", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip


def with_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a quantized folded model whose other steps compute in float16.

    What foldcam grafted, sums and norms stay float32; see `export.onnx_graphs.float32_steps`.

    Args:
        model: folded, with Q and DQ in float32.
    """
    return to_float16(model, _held)


def float16_steps(model: onnx.ModelProto) -> int:
    """How many nodes compute in float16: those with such an output, casts aside."""
    halves = {
        tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16
    }
    steps = 0
    for node in model.graph.node:
        if node.op_type == "Cast":
            if any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute):
                halves.update(node.output)
        elif halves.intersection(node.input):
            halves.update(node.output)
            steps += 1
    return steps


def _held(graph: onnx.GraphProto) -> set[int]:
    held: set[int] = set()
    rounded: set[str] = set()
    quantized: set[str] = set()
    for position, node in enumerate(graph.node):
        if is_grafted(node):
            held.add(position)
        elif node.op_type in _QUANTIZERS:
            held.add(position)
            if node.op_type == "DequantizeLinear":
                rounded.update(node.output)
        elif rounded.intersection(node.input) or (
            node.op_type in _JOINED and quantized.intersection(node.input)
        ):
            held.add(position)
            quantized.update(node.output)
    return held
