"""Nodes that draw random numbers: with them an image has no one embedding."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.session import Array, constant_of
from foldcam.export.onnx_graphs.values import RANDOM, graphs, place_of
from foldcam.runtime.system.errors import FoldcamError


def refuse_random(graph: onnx.GraphProto) -> None:
    """Refuse noise, and dropout in training mode."""
    for inner in graphs(graph):
        for node in inner.node:
            if node.op_type in RANDOM:
                raise FoldcamError(
                    f"{node.op_type} (node {place_of(node)}) draws random numbers, so that one "
                    "image has another embedding each time: export the network after eval(), "
                    "without its noise."
                )
            if node.op_type == "Dropout" and _trains(graph, inner, node):
                raise FoldcamError(
                    f"Dropout (node {place_of(node)}) is in training mode and drops other numbers "
                    "each time: export the network after eval()."
                )


def _trains(graph: onnx.GraphProto, inner: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a Dropout is in training mode, by its third input."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode, ratio = (_constant(str(name), inner, graph) for name in (node.input[2], node.input[1]))
    return mode is not None and bool(mode.any()) and (ratio is None or bool(ratio.any()))


def _constant(name: str, *places: onnx.GraphProto) -> Array | None:
    """A constant of a graph or of the one around it, handed on by Identity as some tools do."""
    for graph in places:
        for tensor in graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        for node in graph.node:
            if name in node.output and node.op_type == "Constant":
                return constant_of(node)
            if name in node.output and node.op_type == "Identity":
                return _constant(str(node.input[0]), *places)
    return None
