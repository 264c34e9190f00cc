"""ONNX opset 18 -> 17, for TensorRT 8.6, where the converters of onnx and torch give up.

Between the two, reductions and Pad got their axes as an input, Split the number of its parts,
Resize and LpPool options that say what was so before, and Mish came.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.names import drop_unused_constants, subgraphs
from foldcam.runtime.system.errors import FoldcamError

_REDUCTIONS = {
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
}
# What 18 added as an attribute, where its value says what 17 does.
_DEFAULTS: dict[tuple[str, str], object] = {
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("LpPool", "ceil_mode"): 0,
    ("LpPool", "dilations"): [1, 1],
}


def to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a model of opset 18 in opset 17.

    Args:
        model: a model of opset 18. It is not changed.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    assert opset_of(lowered) == 18
    _Lowering(lowered.graph).lower(lowered.graph)
    drop_unused_constants(lowered.graph)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 17
    return lowered


class _Lowering:
    """The constants and shapes that the rewriting asks for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in [*graph.input, *graph.value_info, *graph.output]
        }
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                values = [a.t for a in node.attribute if a.name == "value"]
                self._constants.update((node.output[0], tensor) for tensor in values)
        self._sizes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in [*graph.value_info, *graph.output]
        }

    def lower(self, graph: onnx.GraphProto) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            for inner in subgraphs(node):
                self.lower(inner)
            nodes.extend(self._lowered(graph, node))
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _lowered(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.domain not in ("", "ai.onnx"):
            return [node]
        self._drop_defaults(node)
        if node.op_type in _REDUCTIONS:
            self._reduction(node)
        elif node.op_type == "Pad" and len(node.input) > 3:
            self._pad(graph, node)
        elif node.op_type == "Split":
            self._split(graph, node)
        elif node.op_type == "Mish":
            return _mish(node)
        return [node]

    def _drop_defaults(self, node: onnx.NodeProto) -> None:
        kept = []
        for attribute in node.attribute:
            default = _DEFAULTS.get((node.op_type, attribute.name))
            if default is None or helper.get_attribute_value(attribute) != default:
                kept.append(attribute)
        if len(kept) != len(node.attribute):
            copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
            del node.attribute[:]
            node.attribute.extend(copies)

    def _reduction(self, node: onnx.NodeProto) -> None:
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes = self._integers(node, 1) if len(node.input) > 1 and node.input[1] else []
        if settings.pop("noop_with_empty_axes", 0) and not axes:
            raise _refusal(node, "reduces over no axes at all")
        if axes:
            settings["axes"] = axes
        del node.input[1:]
        _set(node, settings)

    def _pad(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        if node.input[3]:
            axes, pads = self._integers(node, 3), self._integers(node, 1)
            rank = self._ranks.get(node.input[0]) or self._ranks.get(node.output[0])
            if not rank:
                raise _refusal(node, "pads a tensor whose rank is not known")
            whole = np.zeros((2, rank), np.int64)
            for axis, before, after in zip(axes, *np.reshape(pads, (2, -1)), strict=True):
                whole[:, axis] = before, after
            node.input[1] = self._constant(graph, f"{node.output[0]}.pads", whole.reshape(-1))
        del node.input[3:]
        if not node.input[-1]:
            del node.input[-1]

    def _split(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if settings.pop("num_outputs", None) is None:
            return
        sizes = [self._sizes.get(name) for name in node.output]
        axis = int(settings.get("axis", 0))
        parts = [size[axis] if size else 0 for size in sizes]
        if min(parts) < 1:
            raise _refusal(node, "splits an axis of unknown size")
        if len(set(parts)) > 1:
            node.input.append(self._constant(graph, f"{node.output[0]}.parts", np.array(parts)))
        _set(node, settings)

    def _integers(self, node: onnx.NodeProto, position: int) -> list[int]:
        tensor = self._constants.get(node.input[position])
        if tensor is None:
            raise _refusal(node, "takes its axes from a computation")
        return [int(value) for value in numpy_helper.to_array(tensor).reshape(-1)]

    @staticmethod
    def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
        return name


def _mish(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`x tanh(softplus(x))`."""
    source, target = node.input[0], node.output[0]
    soft, gate = f"{target}.softplus", f"{target}.tanh"
    return [
        helper.make_node("Softplus", [source], [soft], name=soft),
        helper.make_node("Tanh", [soft], [gate], name=gate),
        helper.make_node("Mul", [source, gate], [target], name=node.name),
    ]


def _set(node: onnx.NodeProto, settings: dict[str, object]) -> None:
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(settings.items()))


def _refusal(node: onnx.NodeProto, what: str) -> FoldcamError:
    return FoldcamError(
        f"The network cannot be written in ONNX opset 17: its step {node.name or node.op_type!r} "
        f"{what}; use --opset 18."
    )
