"""Branches of an ONNX graph that are taken whatever the image, put in the place of their If."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.session import Array, GraphSession
from foldcam.export.onnx_graphs.values import PREPARED, Flow, graphs


def settle_branches(model: onnx.ModelProto, images: Array) -> None:
    """Replace each If whose condition asks for sizes or constants alone.

    Exporters write one where they do not know how large a dimension is, as for `squeeze`.
    """
    settled = 0
    while (position := _first_settled(model.graph)) is not None:
        node = model.graph.node[position]
        taken = bool(np.all(_value(model, str(node.input[0]), images)))
        nodes, weights = _inlined(node, taken, f"{PREPARED}branch.{settled}.")
        after = list(model.graph.node)[position + 1 :]
        del model.graph.node[position:]
        model.graph.node.extend([*nodes, *after])
        model.graph.initializer.extend(weights)
        settled += 1


def name_nodes_apart(graph: onnx.GraphProto) -> None:
    """Take the name from every node that has another's, which ONNX Runtime refuses."""
    known: set[str] = set()
    for inner in graphs(graph):
        for node in inner.node:
            if node.name in known:
                node.name = ""
            known.add(node.name)


def _first_settled(graph: onnx.GraphProto) -> int | None:
    if not any(node.op_type == "If" for node in graph.node):
        return None
    flow = Flow(graph)
    return next(
        (
            position
            for position, node in enumerate(flow.nodes)
            if node.op_type == "If" and not flow.holds_image(str(node.input[0]))
        ),
        None,
    )


def _value(model: onnx.ModelProto, name: str, images: Array) -> Array:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    (value,) = GraphSession(model, [name]).run(images)
    return value


def _inlined(
    node: onnx.NodeProto, taken: bool, prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and weights of the branch, its own values renamed, its outputs called as the If's."""
    wanted = "then_branch" if taken else "else_branch"
    branch = onnx.GraphProto()
    branch.CopyFrom(next(each.g for each in node.attribute if each.name == wanted))
    own = {str(name) for inner in branch.node for name in inner.output if name}
    own |= {str(tensor.name) for tensor in branch.initializer}
    names = {name: prefix + name for name in own}
    for tensor in branch.initializer:
        tensor.name = names[tensor.name]
    for graph in graphs(branch):
        for inner in graph.node:
            for values in (inner.input, inner.output):
                for position, name in enumerate(values):
                    values[position] = names.get(name, name)
    # A branch may hand on a value of the outer graph, or one value twice.
    ends = [
        helper.make_node("Identity", [names.get(value.name, value.name)], [output], prefix + output)
        for value, output in zip(branch.output, node.output, strict=True)
        if output
    ]
    return [*branch.node, *ends], list(branch.initializer)
