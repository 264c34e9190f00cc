"""Normalisations inside an ONNX head, differentiated with their scale held constant.

As `export.held_scales` does for a torch graph, and why is said there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from export.onnx_graph import Flow
from export.onnx_rewrite import Shape
from export.onnx_session import constant_of

# What stands between a norm and its use: a bound against zero, a new shape.
_PASSED_ON = {
    *("Add", "Cast", "Clip", "Expand", "Identity", "Max"),
    *("Reciprocal", "Reshape", "Squeeze", "Unsqueeze"),
}


def held_inputs(
    graph: onnx.GraphProto, flow: Flow, head: Collection[int], shapes: Mapping[str, Shape]
) -> dict[int, set[int]]:
    """Which inputs of a head's products are norms of a row.

    Args:
        graph: the network's.
        flow: of it.
        head: numbers of the head's nodes.
        shapes: of the graph's values.

    Returns:
        Number of a node -> positions of its inputs through which no gradient is to pass.
    """
    constants = {str(tensor.name): tensor for tensor in graph.initializer}
    held: dict[int, set[int]] = {}
    for number in head:
        node = flow.nodes[number]
        if node.op_type not in ("Mul", "Div"):
            continue
        whole = shapes.get(str(node.output[0]))
        for position, name in enumerate(node.input):
            shape = shapes.get(name)
            smaller = shape is not None and whole is not None and shape.sizes != whole.sizes
            expanded = _maker(flow, name) == "Expand"
            if (smaller or expanded) and _is_norm(str(name), flow, constants):
                held.setdefault(number, set()).add(position)
    return held


def _maker(flow: Flow, name: str) -> str:
    number = flow.producer.get(name)
    return "" if number is None else str(flow.nodes[number].op_type)


def _is_norm(name: str, flow: Flow, constants: Mapping[str, onnx.TensorProto]) -> bool:
    waiting = [name]
    while waiting:
        number = flow.producer.get(waiting.pop())
        if number is None:
            continue
        node = flow.nodes[number]
        if node.op_type in ("Sqrt", "ReduceL2"):
            return True
        if node.op_type == "Pow" and _number(str(node.input[1]), flow, constants) in (0.5, -0.5):
            return True
        if node.op_type in _PASSED_ON:
            waiting.extend(str(each) for each in node.input if each)
        elif node.op_type == "Div" and node.input[0] in flow.fixed:
            # One over the norm.
            waiting.append(str(node.input[1]))
    return False


def _number(name: str, flow: Flow, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    value = numpy_helper.to_array(constants[name]) if name in constants else None
    number = flow.producer.get(name)
    if number is not None and flow.nodes[number].op_type == "Constant":
        value = constant_of(flow.nodes[number])
    return float(np.ravel(value)[0]) if value is not None and np.size(value) == 1 else None
