"""Any ONNX file as the rules see it: nodes of all levels, constants, types and shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from foldcam.export.onnx_graphs.message import parse_message
from foldcam.export.onnx_graphs.value_sizes import check_value_sizes, inferred
from foldcam.export.onnx_graphs.values import graphs
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

# A protocol-buffer message ends there, and so does every parser of one.
MAX_BYTES = (1 << 31) - 1
_STANDARD_DOMAINS = ("", "ai.onnx")
_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


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
    """A model, with the nodes of all subgraphs in one list.

    Attributes:
        nodes: the operators of all graphs.
        opset: the version of ONNX's own operators; 0 where the model states none.
        constants: value name -> the tensor in the file.
        inputs, outputs: what the caller of the model gives and gets.
    """

    def __init__(self, model: onnx.ModelProto, typed: onnx.ModelProto) -> None:
        self.model = model
        every = list(graphs(typed.graph))
        protos = [proto for graph in every for proto in graph.node]
        self.nodes = [_node(proto, number) for number, proto in enumerate(protos)]
        self.opset = next(
            (o.version for o in model.opset_import if o.domain in _STANDARD_DOMAINS), 0
        )
        self.constants: dict[str, TensorProto] = {
            tensor.name: tensor for graph in graphs(model.graph) for tensor in graph.initializer
        }
        for proto in protos:
            if proto.op_type == "Constant" and proto.output:
                self.constants.update(_constant(proto))
        self.inputs = [
            value for value in model.graph.input if value.name and value.name not in self.constants
        ]
        self.outputs = list(model.graph.output)
        self._values: dict[str, onnx.ValueInfoProto] = {}
        for graph in every:
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

    def of(self, *operators: str) -> Iterator[Node]:
        """The nodes of these standard operators, or of all of them where none is named."""
        return (
            node for node in self.nodes if node.standard and (not operators or node.op in operators)
        )

    def constants_of(self, *types: str) -> Iterator[tuple[str, str, list[Node]]]:
        """Name, type and readers of each constant of these types."""
        for name, tensor in self.constants.items():
            kind = type_name(tensor.data_type)
            if kind in types:
                yield name, kind, self.consumers.get(name, [])

    def dtype(self, name: str) -> str:
        """Type of a value such as `float16`; empty where it is unknown."""
        if name in self.constants:
            return type_name(self.constants[name].data_type)
        value, node = self._values.get(name), self.producers.get(name)
        if value is None and node is not None and node.standard and node.op == "Cast":
            return type_name(int(node.attributes.get("to", 0)))
        return "" if value is None else type_name(value.type.tensor_type.elem_type)

    def is_output(self, *names: str) -> bool:
        """Whether one of these values is an output of the model."""
        return any(value.name in names for value in self.outputs)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a value, None for an open size; None where even the rank is unknown."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        value = self._values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        )

    def is_constant(self, name: str) -> bool:
        """Whether the value is in the file; TensorRT folds nothing else for an input it reads."""
        return self._stored_name(name) in self.constants

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """The value of a constant; None if it is none, is outside the file, or is damaged."""
        tensor = self.constants.get(self._stored_name(name))
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError):
            return None

    def _stored_name(self, name: str) -> str:
        node = self.producers.get(name)
        if name not in self.constants and node is not None and node.op == "Identity":
            return node.input(0)
        return name


def load_view(path: Path) -> ModelView:
    """Read an ONNX file, its external data left where it is.

    Types and shapes are inferred with onnx; where that fails they stay unknown, and rules
    that need them find nothing.
    """
    read_header(path)
    if path.stat().st_size > MAX_BYTES:
        raise FoldcamError(
            f"{path} is {path.stat().st_size / 2**30:.1f} GiB and one ONNX file cannot exceed 2 "
            "GiB: save it with external data (onnx.save_model, save_as_external_data=True)."
        )
    model = parse_message(path)
    if not model.graph.node or not model.graph.output:
        raise FoldcamError(f"{path} holds no network: its graph has no nodes or no outputs.")
    typed = inferred(model)
    check_value_sizes(typed, path)
    return ModelView(model, typed)


def type_name(number: int) -> str:
    """ONNX's element type as numpy calls it; empty for none."""
    if number == TensorProto.UNDEFINED:
        return ""
    try:
        name = str(TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def _constant(proto: onnx.NodeProto) -> dict[str, TensorProto]:
    for attribute in proto.attribute:
        if attribute.name == "value":
            return {proto.output[0]: attribute.t}
        if attribute.name in ("value_int", "value_ints"):
            values = np.asarray(list(attribute.ints) or attribute.i, np.int64)
            return {proto.output[0]: numpy_helper.from_array(values)}
        if attribute.name in ("value_float", "value_floats"):
            values = np.asarray(list(attribute.floats) or attribute.f, np.float32)
            return {proto.output[0]: numpy_helper.from_array(values)}
    return {}


def _node(proto: onnx.NodeProto, number: int) -> Node:
    name = proto.name or f"number {number}" + (
        f", which makes {proto.output[0]}" if proto.output and proto.output[0] else ""
    )
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type not in _GRAPHS:
            try:
                value = helper.get_attribute_value(attribute)
            except ValueError:
                continue
            text = isinstance(value, bytes)
            attributes[attribute.name] = value.decode("utf-8", "replace") if text else value
    return Node(
        shorten(printable(name), 200),
        printable(proto.op_type),
        printable(proto.domain),
        tuple(proto.input),
        tuple(proto.output),
        attributes,
    )
