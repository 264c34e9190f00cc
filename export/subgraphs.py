"""The graphs inside control-flow nodes (If, Loop, Scan), which see the names around them."""

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
