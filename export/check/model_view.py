"""An ONNX model as the rules see it: nodes of all levels, constants, types and shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.runtime.system.text import printable, shorten

Shape = tuple[int | None, ...]
# Above it a constant is looked at for its type and shape alone.
_MOST_ELEMENTS = 1 << 24
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        name: printable and never empty.
        op: the operator's type.
        domain: empty for ONNX's own.
        inputs, outputs: value names; an empty one is left out.
        attributes: by name, as Python values; subgraphs are left out.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(repr=False)

    @property
    def standard(self) -> bool:
        """Whether it is one of ONNX's own operators."""
        return self.domain in _STANDARD_DOMAINS

    def input(self, index: int) -> str:
        """Name of an input; empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""


class ModelView:
    """A model, its nodes of all subgraphs in one list.

    Args:
        model: with or without its external data.
        typed: the same model with inferred types and shapes; its constants may lack.
    """

    def __init__(self, model: onnx.ModelProto, typed: onnx.ModelProto) -> None:
        self.model = model
        self._typed = typed
        graphs = list(_graphs(typed.graph))
        self.nodes = [_node(proto, number) for number, proto in enumerate(_protos(graphs))]
        self.opset = next(
            (o.version for o in model.opset_import if o.domain in _STANDARD_DOMAINS), 0
        )
        self.constants: dict[str, TensorProto] = {}
        for graph in _graphs(model.graph):
            self.constants.update({tensor.name: tensor for tensor in graph.initializer})
        for proto in _protos(graphs):
            if proto.op_type == "Constant" and proto.output:
                self._add_constant(proto)
        self.inputs = [
            value for value in model.graph.input if value.name and value.name not in self.constants
        ]
        self.outputs = list(model.graph.output)
        self._values: dict[str, onnx.ValueInfoProto] = {}
        for graph in graphs:
            for value in (*graph.value_info, *graph.output, *graph.input):
                self._values.setdefault(value.name, value)

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def operators(self) -> Counter[tuple[str, str]]:
        """How often each `(domain, operator)` is used."""
        return Counter((node.domain, node.op) for node in self.nodes)

    def of(self, *operators: str) -> Iterator[Node]:
        """The nodes of these standard operators."""
        return (node for node in self.nodes if node.standard and node.op in operators)

    def dtype(self, name: str) -> str:
        """Type of a value such as `float16`; empty where it is unknown."""
        if name in self.constants:
            return type_name(self.constants[name].data_type)
        value = self._values.get(name)
        return "" if value is None else type_name(value.type.tensor_type.elem_type)

    def shape(self, name: str) -> Shape | None:
        """Shape of a value, None for an open size; None where even the rank is unknown."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        value = self._values.get(name)
        return None if value is None else shape_of(value)

    def is_constant(self, name: str) -> bool:
        """Whether the value is in the file; TensorRT folds nothing else for an input it reads."""
        node = self.producers.get(name)
        if node is not None and node.op == "Identity" and name not in self.constants:
            return node.input(0) in self.constants
        return name in self.constants

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """The value of a constant; None if it is none, is outside the file, huge or damaged."""
        node = self.producers.get(name)
        if name not in self.constants and node is not None and node.op == "Identity":
            name = node.input(0)
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        if not 0 <= _elements(tensor) <= _MOST_ELEMENTS:
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError):
            return None

    def _add_constant(self, proto: onnx.NodeProto) -> None:
        for attribute in proto.attribute:
            if attribute.name == "value":
                self.constants[proto.output[0]] = attribute.t
            elif attribute.name in ("value_int", "value_ints"):
                values = attribute.ints or [attribute.i]
                shape = [len(values)] if attribute.name == "value_ints" else []
                made = helper.make_tensor(proto.output[0], TensorProto.INT64, shape, values)
                self.constants[proto.output[0]] = made
            elif attribute.name in ("value_float", "value_floats"):
                floats = attribute.floats or [attribute.f]
                shape = [len(floats)] if attribute.name == "value_floats" else []
                made = helper.make_tensor(proto.output[0], TensorProto.FLOAT, shape, floats)
                self.constants[proto.output[0]] = made


def type_name(number: int) -> str:
    """ONNX's element type as numpy calls it; empty for none."""
    if number == TensorProto.UNDEFINED:
        return ""
    try:
        name = str(TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """Shape of a graph's input or output; None where even the rank is unknown."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else None
        for dim in value.type.tensor_type.shape.dim
    )


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from _graphs(inner)


def _protos(graphs: list[onnx.GraphProto]) -> Iterator[onnx.NodeProto]:
    for graph in graphs:
        yield from graph.node


def _node(proto: onnx.NodeProto, number: int) -> Node:
    name = proto.name or f"number {number}" + (
        f", which makes {proto.output[0]}" if proto.output and proto.output[0] else ""
    )
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        try:
            value = helper.get_attribute_value(attribute)
        except ValueError:
            continue
        attributes[attribute.name] = (
            value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        )
    return Node(
        shorten(printable(name), 200), printable(proto.op_type), printable(proto.domain),
        tuple(proto.input), tuple(proto.output), attributes,
    )  # fmt: skip
