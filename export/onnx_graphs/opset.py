"""An ONNX graph in another operator set, proven to compute the same; for 18 -> 17 by own rules."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter
from onnx import helper, numpy_helper

from foldcam.export.onnx_graphs.embedding_model import OLDEST_OPSET, opset_of
from foldcam.export.onnx_graphs.precision import is_float16
from foldcam.export.onnx_graphs.session import GraphSession, reason
from foldcam.export.onnx_graphs.values import (
    attributes_of,
    drop_unused_constants,
    prune,
    refill,
    subgraphs,
    tensors_of,
)
from foldcam.runtime.system.errors import FoldcamError


def in_opset(model: onnx.ModelProto, opset: int, images: np.ndarray) -> onnx.ModelProto:
    """The graph in that operator set.

    ONNX's converter goes first. Where it gives up, the graph is only called one of the
    other set: most operators mean the same in both. Last, operators that the other set
    lacks are spelled out. Whatever comes out is checked, and compared with the original.
    """
    if opset_of(model) == opset:
        return model
    expected = _outputs(model, images)
    problem = ""
    for attempt in (_converted, _relabelled, _spelled_out):
        try:
            changed = attempt(model, opset)
            _declare(changed, expected)
            onnx.checker.check_model(changed, full_check=True)
            if _agree(expected, _outputs(changed, images), 2e-2 if is_float16(model) else 1e-4):
                return changed
            problem = problem or "what comes out computes something else"
        except Exception as error:
            # The converter is a C++ library, whose exceptions have no type in common.
            problem = problem or reason(error)
    has = opset_of(model)
    remedy = (
        f"use --opset {has}"
        if has >= OLDEST_OPSET
        else f"export it again in opset {OLDEST_OPSET} or later"
    )
    raise FoldcamError(
        f"The network is in ONNX opset {has}, which cannot be converted to {opset} ({problem}): "
        f"{remedy}."
    )


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = onnx.version_converter.convert_version(model, opset)
    for node in changed.graph.node:
        # The converter forgets to drop it, and it says what is so without it.
        kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
        if len(kept) < len(node.attribute) and opset < 18 and node.op_type != "ReduceSum":
            refill(node.attribute, kept)
    prune(changed.graph)
    return changed


def _relabelled(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    refill(changed.opset_import, [onnx.helper.make_opsetid("", opset)])
    return changed


def _spelled_out(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Operators that the other set lacks, such as Gelu before 20, are written as what they are."""
    lacking = sorted(
        {node.op_type for node in model.graph.node if not _exists(str(node.op_type), opset)}
    )
    inlined = onnx.inliner.inline_selected_functions(
        model, [("", name) for name in lacking], inline_schema_functions=True
    )
    try:
        return _converted(inlined, opset)
    except Exception:
        # As in `in_opset`: the converter gives up on operators that mean the same.
        return _relabelled(inlined, opset)


def _exists(operator: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _declare(model: onnx.ModelProto, arrays: list[np.ndarray]) -> None:
    """Say how many dimensions the outputs have, which nobody infers behind a Reshape to sizes
    that the graph computes, and without which a file is not valid."""
    for value, array in zip(model.graph.output, arrays, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(value.name, kind, [None] * array.ndim)
            )


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    return GraphSession(model, [str(value.name) for value in model.graph.output]).run(images)


def _agree(expected: list[np.ndarray], found: list[np.ndarray], tolerance: float) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance * float(np.abs(a).max()))
        for a, b in zip(expected, found, strict=True)
    )


_REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSumSquare",
}  # fmt: skip
# What 18 added as an attribute, where its value says what 17 does.
_DEFAULTS: dict[tuple[str, str], object] = {
    ("Resize", "antialias"): 0,
    ("Resize", "keep_aspect_ratio_policy"): b"stretch",
    ("LpPool", "ceil_mode"): 0,
    ("LpPool", "dilations"): [1, 1],
}


def to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write a model of opset 18 in 17, for TensorRT 8.6, where onnx's and torch's converters fail.

    Between the two, reductions and Pad got their axes as an input, Split the number of its parts,
    Resize and LpPool options that say what was so before, and Mish came.

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
        self._constants = tensors_of(graph)
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
        refill(graph.node, [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes])

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
            refill(
                node.attribute,
                [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept],
            )

    def _reduction(self, node: onnx.NodeProto) -> None:
        settings = attributes_of(node)
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
        settings = attributes_of(node)
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
    refill(node.attribute, (helper.make_attribute(k, v) for k, v in sorted(settings.items())))


def _refusal(node: onnx.NodeProto, what: str) -> FoldcamError:
    return FoldcamError(
        f"The network cannot be written in ONNX opset 17: its step {node.name or node.op_type!r} "
        f"{what}; use --opset 18."
    )
