"""An embedding network as ONNX before it is folded: its names, and nothing of its exporter."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from foldcam.export.onnx_graphs.values import refill
from foldcam.runtime.contract.schema import SUMMAND_KINDS, SummandKind

FEATURE_MAP = "feature_map"
FEATURE_SUM = "feature_sum"
"""The sum over positions behind the feature map, where the network has one."""
BATCH = "batch"
OLDEST_OPSET = 17
"""What TensorRT 8.6 reads and the fold is written in."""

# Metadata of an embedding network's own file: the hash by which its banks know it.
_NETWORK_KEY = "foldcam.network_sha256"
# And the sum over positions whose summands are its feature map.
_SUMMANDS_KEY = "foldcam.summands"


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in."""
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    return int(max(versions, default=1))


def mark_network(
    model: onnx.ModelProto, sha256: str, summands: SummandKind = "none", query: int = 0
) -> None:
    """Write into an embedding network's file which network it is, and what its feature map is.

    Args:
        sha256: as `Network.sha256` and the banks of it say.
        summands: the kind of sum whose summands the feature map is, `none` where it is the last
            spatial activation.
        query: of an attention, the token that the embedding reads.
    """
    refill(
        model.metadata_props,
        [e for e in model.metadata_props if e.key not in (_NETWORK_KEY, _SUMMANDS_KEY)],
    )
    for key, value in ((_NETWORK_KEY, sha256), (_SUMMANDS_KEY, f"{summands}:{query}")):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def marked_network(model: onnx.ModelProto) -> str | None:
    """The hash that `mark_network` wrote, None where the file does not say."""
    return next((e.value for e in model.metadata_props if e.key == _NETWORK_KEY), None)


def marked_summands(model: onnx.ModelProto) -> tuple[SummandKind, int]:
    """The kind of sum and the query that `mark_network` wrote; of older files no sum."""
    text = next((e.value for e in model.metadata_props if e.key == _SUMMANDS_KEY), "none:0")
    name, _, query = text.partition(":")
    kinds = [kind for kind in SUMMAND_KINDS if kind == name]
    return (kinds[0], int(query)) if kinds and query.isdigit() else ("none", 0)


def strip_origin(model: onnx.ModelProto) -> None:
    """Remove what exporters note about the machine and the source: paths, stack traces.

    Only the computation is kept: documentation and metadata of the model, its
    graph, nodes, values, weights and functions go.
    """
    del model.metadata_props[:]
    model.ClearField("doc_string")
    model.producer_name = "foldcam"
    model.producer_version = ""
    for function in model.functions:
        function.ClearField("doc_string")
        del function.metadata_props[:]
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.ClearField("doc_string")
    graph.name = "foldcam"
    del graph.metadata_props[:]
    _strip_nodes(graph.node)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.ClearField("doc_string")
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.HasField("g"):
                _strip_graph(attribute.g)
            for graph in attribute.graphs:
                _strip_graph(graph)
