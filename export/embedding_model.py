"""An embedding network as ONNX before it is folded: its names, and nothing of its exporter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

FEATURE_MAP = "feature_map"
BATCH = "batch"


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    return int(max(versions, default=1))


def strip_origin(model: onnx.ModelProto) -> None:
    """Remove what exporters note about the machine and the source: paths, stack traces.

    Only the computation is kept: documentation and metadata of the model, its
    graph, nodes, values, weights and functions go.
    """
    del model.metadata_props[:]
    model.doc_string = ""
    model.producer_name = "foldcam"
    model.producer_version = ""
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values new names, wherever a graph mentions them.

    Args:
        graph: changed in place.
        names: old name -> new name.
    """
    for named in [*graph.initializer, *graph.value_info, *graph.input, *graph.output]:
        named.name = names.get(named.name, named.name)
    for node in graph.node:
        for mentioned in (node.input, node.output):
            for position, name in enumerate(mentioned):
                mentioned[position] = names.get(name, name)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                rename_values(inner, names)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    graph.name = "foldcam"
    del graph.metadata_props[:]
    _strip_nodes(graph.node)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)
