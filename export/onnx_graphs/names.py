"""Which names a graph reads, in the graphs inside its control-flow nodes (If, Loop, Scan), too."""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return graphs + [graph for attribute in node.attribute for graph in attribute.graphs]


def names_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Every name that the nodes or their subgraphs read."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for graph in subgraphs(node):
            names.update(value.name for value in graph.output)
            names |= names_read(graph.node)
    return names


def drop_unused_constants(graph: onnx.GraphProto, among: Iterable[str] | None = None) -> None:
    """Remove initializers and Constant nodes that nothing reads.

    Args:
        graph: changed.
        among: names that may go, or None for all.
    """
    used = names_read(graph.node) | {value.name for value in graph.output}
    may_go = None if among is None else set(among)

    def unused(name: str) -> bool:
        return name not in used and (may_go is None or name in may_go)

    dropped = {tensor.name for tensor in graph.initializer if unused(tensor.name)}
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name in dropped:
            del graph.initializer[position]
    # Old files declare their constants as inputs, too.
    for position in reversed(range(len(graph.input))):
        if graph.input[position].name in dropped:
            del graph.input[position]
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.op_type == "Constant" and unused(node.output[0]):
            del graph.node[position]
