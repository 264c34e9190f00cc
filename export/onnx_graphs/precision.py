"""A network of float32 as a strongly typed network of float16 with float32 ends.

Converters of the libraries join two neighbouring float32 steps by a float16 value, and so
lose what the steps were kept for; they also clip weights silently. Here every value has a
float32 and a float16 name, and a cast between the two only where a step needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.float32_steps import FLOAT16_MAX, misfit, steep_nodes
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.export.onnx_graphs.value_sizes import value_types
from foldcam.export.onnx_graphs.values import (
    drop_unused_constants,
    names_read,
    refill,
    subgraphs,
    tensors_of,
)

_log = logging.getLogger(__name__)

_HALF = "tensor(float16)"
_HALF_SUFFIX = ".float16"


def to_float16(
    model: onnx.ModelProto,
    held: Callable[[onnx.GraphProto], set[int]] | None = None,
    wide: Collection[str] = (),
) -> onnx.ModelProto:
    """Convert a network to float16, with `float32` inputs and outputs of the same names.

    Float32 stay: sums, powers, normalisations and the scores of attention (see `float32_steps`),
    operators that know no float16, control flow, and a node with a constant that float16 cannot
    hold. Which constants are too great is logged by name. That an activation leaves the range of
    float16 cannot be seen in the graph: `ranges.beyond_float16` measures it on images.

    Args:
        model: `image` -> `feature_map`, `embedding`. Not changed.
        held: positions of further nodes that stay float32, of the graph that is converted.
        wide: names of values that float16 does not hold: what makes or reads one stays float32.

    Returns:
        A model in which no operator mixes the two types where ONNX allows one only.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
    kept = held(copy.graph) if held else set()
    kept |= {
        place
        for place, node in enumerate(copy.graph.node)
        if any(name in wide for name in (*node.input, *node.output))
    }
    return _Converter(copy, value_types(copy)).converted(kept)


def is_float16(model: onnx.ModelProto) -> bool:
    """Whether a network's weights are in float16 already."""
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def name_made(graph: onnx.GraphProto, name: str) -> str:
    """The name under which a value is computed in a graph that `to_float16` may have converted.

    What reads a value in float16 reads it under another name, and a cast beside it has the old
    one.
    """
    half = f"{name}{_HALF_SUFFIX}"
    made = next((node for node in graph.node if half in node.output), None)
    cast = made is not None and made.op_type == "Cast" and made.input[0] == name
    return name if made is None or cast else half


class _Converter:
    """One conversion. Every variable value is made in one type, and cast once if need be."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, int]) -> None:
        self._model = model
        self._opset = opset_of(model)
        self._types = types
        self._constants = _float_constants(model.graph)
        self._in_half: set[str] = set()
        self._cast: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._halves: dict[str, str] = {}
        self._half_constants: dict[str, onnx.TensorProto] = {}
        self._node_names = {node.name for node in model.graph.node}
        self._taken = set(types) | {name for node in model.graph.node for name in node.output}

    def converted(self, held: set[int]) -> onnx.ModelProto:
        """The model with its nodes in the one type or the other, `held` ones in float32."""
        graph = self._model.graph
        constants = set(self._constants) | {tensor.name for tensor in graph.initializer}
        kept = steep_nodes(graph, constants) | held
        for position, node in enumerate(graph.node):
            if position in kept or not self._becomes_half(node):
                self._keep(node)
            else:
                self._convert(node)
        for value in graph.output:
            self._single(value.name)
        refill(graph.node, self._nodes)
        graph.initializer.extend(self._half_constants.values())
        drop_unused_constants(graph)
        # Shapes are inferred again by whoever needs them.
        del graph.value_info[:]
        return self._model

    def _becomes_half(self, node: onnx.NodeProto) -> bool:
        if subgraphs(node):
            return False
        kinds = self._parameter_kinds(node)
        if kinds is None:
            return False
        inputs, outputs = kinds
        floats = [kind for kind in inputs if kind is not None]
        halves = {kind for kind, allowed in floats if allowed}
        if not outputs and not self._all_in_half(node):
            # A shape or a comparison: no cast for its sake.
            return False
        # An output takes float16 from an input of the same type, not from an attribute.
        if not halves or not all(kind in halves and allowed for kind, allowed in outputs):
            return False
        found = misfit(node, self._constants)
        if found is not None and found.magnitude > FLOAT16_MAX:
            _log.warning(
                "%s holds %g, which float16 cannot: the step that uses it stays float32.",
                found.constant,
                found.magnitude,
            )
        return found is None

    def _all_in_half(self, node: onnx.NodeProto) -> bool:
        variable = [name for name in node.input if name and name not in self._constants]
        floats = [name for name in variable if self._types.get(name) == TensorProto.FLOAT]
        return all(name in self._in_half for name in floats)

    def _parameter_kinds(
        self, node: onnx.NodeProto
    ) -> tuple[list[tuple[str, bool] | None], list[tuple[str, bool]]] | None:
        """For each input, and each float output: the type's letter, and whether it may be float16.

        None for an input that is no float32; None in all where something is not known.
        """
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        except onnx.defs.SchemaError:
            return None
        if any(name and name not in self._types for name in (*node.input, *node.output)):
            return None

        def kind(name: str, position: int, formals: Sequence[Any]) -> tuple[str, bool] | None:
            if not name or self._types[name] != TensorProto.FLOAT:
                return None
            formal = formals[min(position, len(formals) - 1)]
            return formal.type_str, _HALF in formal.types

        inputs = [kind(name, at, schema.inputs) for at, name in enumerate(node.input)]
        made = [kind(name, at, schema.outputs) for at, name in enumerate(node.output)]
        outputs = [each for each in made if each is not None]
        return inputs, outputs

    def _convert(self, node: onnx.NodeProto) -> None:
        kinds = self._parameter_kinds(node)
        assert kinds is not None
        for position, kind in enumerate(kinds[0]):
            if kind is not None:
                name = node.input[position]
                node.input[position] = self._half(name) if kind[1] else self._single(name)
        for position, name in enumerate(node.output):
            if name and self._types[name] == TensorProto.FLOAT:
                self._in_half.add(name)
                node.output[position] = self._half_name(name)
        self._nodes.append(node)

    def _keep(self, node: onnx.NodeProto) -> None:
        for name in sorted(names_read([node])):
            self._single(name)
        self._nodes.append(node)

    def _single(self, name: str) -> str:
        """The value in float32: its own name, cast to if it was made in float16."""
        if name in self._in_half and name not in self._cast:
            self._cast.add(name)
            self._append_cast(self._half_name(name), name, TensorProto.FLOAT)
        return name

    def _half(self, name: str) -> str:
        half = self._half_name(name)
        if name in self._constants:
            if name not in self._half_constants:
                with np.errstate(under="ignore"):
                    value = self._constants[name].astype(np.float16)
                self._half_constants[name] = numpy_helper.from_array(value, half)
        elif name not in self._in_half and name not in self._cast:
            self._cast.add(name)
            self._append_cast(name, half, TensorProto.FLOAT16)
        return half

    def _half_name(self, name: str) -> str:
        if name not in self._halves:
            half = f"{name}{_HALF_SUFFIX}"
            while half in self._taken:
                half += "_"
            self._taken.add(half)
            self._halves[name] = half
        return self._halves[name]

    def _append_cast(self, source: str, target: str, to: int) -> None:
        # Nodes have names of their own, and many that of their first output.
        name = target if target not in self._node_names else f"{target}.cast"
        while name in self._node_names:
            name += "_"
        self._node_names.add(name)
        self._nodes.append(helper.make_node("Cast", [source], [target], name=name, to=to))


def _float_constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[Any]]:
    """Float32 initializers and results of Constant nodes."""
    floats = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors_of(graph).items()
        if tensor.data_type == TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value_float":
                    floats[node.output[0]] = np.asarray(attribute.f, np.float32)
                elif attribute.name == "value_floats":
                    floats[node.output[0]] = np.asarray(attribute.floats, np.float32)
    return floats


HEADROOM = 4.0
"""How much greater the values of other pictures may be than those of the ones measured."""
_BATCH = 8
_OWN = "foldcam.range."


def beyond_float16(
    model: onnx.ModelProto, images: npt.NDArray[np.float32], device: Device = CPU
) -> frozenset[str]:
    """The float32 values whose greatest magnitude is above a quarter of what float16 holds.

    Args:
        images: `float32 [n, 3, H, W]`, as the network takes them.

    Returns:
        Names of values of the graph; those of subgraphs, which stay float32, are left out.
    """
    types = value_types(model)
    names = [
        name
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name and types.get(name) == TensorProto.FLOAT
    ]
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    graph = measured.graph
    zero = f"{_OWN}zero"
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), zero))
    for name in names:
        flat, some, magnitude, most = (f"{_OWN}{name}.{part}" for part in range(4))
        # With a zero beside them, because exporters leave slices of nothing in a graph.
        graph.node.extend(
            [
                helper.make_node("Flatten", [name], [flat], axis=0),
                helper.make_node("Concat", [flat, zero], [some], axis=1),
                helper.make_node("Abs", [some], [magnitude]),
                helper.make_node("ReduceMax", [magnitude], [most], keepdims=0),
            ]
        )
    outputs = [f"{_OWN}{name}.3" for name in names]
    session = GraphSession(measured, outputs, device)
    parts = [session.run(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    greatest = np.max(np.array(parts, np.float64), axis=0)
    return frozenset(
        name for name, most in zip(names, greatest, strict=True) if most > FLOAT16_MAX / HEADROOM
    )
