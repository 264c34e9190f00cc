"""Matchers about element types: which exist where, and which must not meet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foldcam.export.check.model_view import ModelView, Node, type_name
from foldcam.export.check.rule import Match, Matcher, at
from foldcam.export.check.targets import Target

# Operators that TensorRT refuses when these inputs differ in type; all inputs where None.
# BatchNormalization, Clip and Pow convert by themselves.
_SAME_TYPE: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Mod"), None),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), None),
    **dict.fromkeys(("MatMul", "Gemm", "Conv", "ConvTranspose", "Concat", "PRelu"), None),
    **dict.fromkeys(("LayerNormalization", "Einsum"), None),
    "Where": (1, 2),
}
_READS_UINT8 = {"Cast", "Shape", "Size", "DequantizeLinear"}
# Limits that exporters write for "to the end", which may be cut off without harm.
_OPEN_ENDS = (np.iinfo(np.int64).max, np.iinfo(np.int64).min, np.iinfo(np.int64).min + 1)


def of_types(*names: str) -> Matcher:
    """Match where a value of one of these types enters: input, constant, or the node making it.

    Details `{type}` and `{value}`.
    """

    def find(view: ModelView, _: Target) -> Iterator[Match]:
        for value in view.inputs:
            if view.dtype(value.name) in names:
                yield Match("", details={"type": view.dtype(value.name), "value": value.name})
        for name, tensor in view.constants.items():
            kind = type_name(tensor.data_type)
            readers = view.consumers.get(name, [])
            if kind in names and readers:
                yield at(readers[0], type=kind, value=name)
        for node in view.nodes:
            if any(view.dtype(name) in names for name in node.inputs if name):
                continue
            made = next((n for n in node.outputs if n and _made_type(view, node, n) in names), None)
            if made is not None and made not in view.constants:
                yield at(node, type=_made_type(view, node, made), value=made)

    return find


def cast_to(*names: str) -> Matcher:
    """Match a Cast to one of these types. Details `{type}`."""

    def find(view: ModelView, _: Target) -> Iterator[Match]:
        for node in view.of("Cast"):
            kind = type_name(int(node.attributes.get("to", 0)))
            if kind in names:
                yield at(node, type=kind)

    return find


def mixed_operands(view: ModelView, _: Target) -> Iterator[Match]:
    """Match nodes whose operands must agree in type and do not. Details `{types}`."""
    for node in view.of(*_SAME_TYPE):
        chosen = _SAME_TYPE[node.op]
        names = node.inputs if chosen is None else [node.input(index) for index in chosen]
        kinds = list(dict.fromkeys(view.dtype(name) for name in names if name))
        if len(kinds) > 1 and "" not in kinds:
            yield at(node, types=" and ".join(kinds))


def uint8_not_cast_first(view: ModelView, _: Target) -> Iterator[Match]:
    """Match what reads a uint8 tensor and is no Cast. Details `{value}`."""
    written = {value.name for value in view.outputs}
    for node in view.nodes:
        if not node.standard or node.op in _READS_UINT8:
            continue
        if node.op == "Identity" and set(node.outputs) & written:
            continue
        # A zero point of uint8 is no tensor to compute with.
        names = node.inputs[:1] if node.op == "QuantizeLinear" else node.inputs
        for name in names:
            if name and view.dtype(name) == "uint8" and name not in view.constants:
                yield at(node, value=name)
                break


def not_tensors(view: ModelView, _: Target) -> Iterator[Match]:
    """Match inputs and outputs that are sequences, optional or sparse. Details `{value}`."""
    for value in (*view.inputs, *view.outputs):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            yield Match("", details={"value": value.name})


def uint8_inside(view: ModelView, _: Target) -> Iterator[Match]:
    """Match what makes a uint8 tensor that is no output of the graph. Details `{value}`."""
    written = {value.name for value in view.outputs}
    for node in view.of("Cast", "CastLike", "Clip", "Where", "ConstantOfShape", "Range"):
        for name in node.outputs:
            if name and _made_type(view, node, name) == "uint8" and name not in written:
                yield at(node, value=name)


def uint8_constant(view: ModelView, _: Target) -> Iterator[Match]:
    """Match the first reader of a uint8 constant that is no zero point. Details `{value}`."""
    for name, tensor in view.constants.items():
        if type_name(tensor.data_type) == "uint8":
            for node in view.consumers.get(name, []):
                if not node.op.endswith("QuantizeLinear") and node.op != "DequantizeLinear":
                    yield at(node, value=name)
                    break


def int64_beyond_int32(view: ModelView, _: Target) -> Iterator[Match]:
    """Match the first reader of an int64 constant that int32 cannot hold. Details `{found}`."""
    limits = np.iinfo(np.int32)
    for name, tensor in view.constants.items():
        if type_name(tensor.data_type) != "int64" or name not in view.consumers:
            continue
        values = view.array(name)
        if values is None:
            continue
        outside = values[(values > limits.max) | (values < limits.min)]
        outside = outside[~np.isin(outside, _OPEN_ENDS)]
        if outside.size:
            yield at(view.consumers[name][0], value=name, found=int(outside.flat[0]))


def int64_outputs(view: ModelView, _: Target) -> Iterator[Match]:
    """Match the graph's outputs of type int64. Details `{value}`."""
    for value in view.outputs:
        if type_name(value.type.tensor_type.elem_type) == "int64":
            yield Match("", details={"value": value.name})


def _made_type(view: ModelView, node: Node, name: str) -> str:
    if node.standard and node.op == "Cast":
        return type_name(int(node.attributes.get("to", 0)))
    return view.dtype(name)
