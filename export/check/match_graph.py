"""Matchers about the model as a whole, and about operators that take more than a look."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import TensorProto

from foldcam.export.check.model_view import ModelView, Node
from foldcam.export.check.operators import DLA_FREE, DLA_OPERATORS, first_version, support
from foldcam.export.check.rule import Match, at
from foldcam.export.check.targets import Target
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.text import printable

MOST_TOPK = 3840
# A window must be smaller than that in one and two dimensions.
POOL_WINDOW = 100_000


def opset_too_new(view: ModelView, target: Target) -> Iterator[Match]:
    """Match the model. Details `{opset}`, `{newest}`."""
    if view.opset > target.newest_opset:
        yield Match("", details={"opset": view.opset, "newest": target.newest_opset})


def opset_too_old(view: ModelView, target: Target) -> Iterator[Match]:
    """Match the model. Details `{opset}`, `{oldest}`."""
    if view.opset < target.oldest_opset:
        yield Match("", details={"opset": view.opset, "oldest": target.oldest_opset})


def unknown_operator(view: ModelView, target: Target) -> Iterator[Match]:
    """Match standard operators that the target's parser lacks. Details `{since}`."""
    for node in view.nodes:
        if node.standard and support(node.op, target) == "no" and node.op not in INTEGER_OPERATORS:
            first = first_version(node.op)
            later = first is not None and first > target.version
            since = f"TensorRT {first[0]}.{first[1]} has it" if first and later else "none has it"
            yield at(node, since=since)


def undated_operator(view: ModelView, target: Target) -> Iterator[Match]:
    """Match standard operators that came between two tables. Details `{first}`."""
    for node in view.nodes:
        if node.standard and support(node.op, target) == "unknown":
            first = first_version(node.op) or (0, 0)
            yield at(node, first=f"{first[0]}.{first[1]}")


INTEGER_OPERATORS = frozenset(
    {"QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
)


def integer_operator(view: ModelView, _: Target) -> Iterator[Match]:
    """Match operators that compute on integers, as some quantizers write them."""
    for node in view.of(*INTEGER_OPERATORS):
        yield at(node)


def custom_unknown(view: ModelView, target: Target) -> Iterator[Match]:
    """Match operators of another domain whose name TensorRT does not know. Details `{domain}`."""
    for node in view.nodes:
        if not node.standard and not _read_by_name(node, target):
            yield at(node, domain=node.domain)


def custom_by_name(view: ModelView, target: Target) -> Iterator[Match]:
    """Match operators of another domain that TensorRT takes for ONNX's own. `{domain}`."""
    for node in view.nodes:
        if not node.standard and _read_by_name(node, target):
            yield at(node, domain=node.domain)


def local_functions(view: ModelView, _: Target) -> Iterator[Match]:
    """Match a model with functions of its own. Details `{functions}`."""
    names = [printable(function.name) for function in view.model.functions]
    if names:
        yield Match("", details={"functions": ", ".join(names[:5])})


def topk_too_many(view: ModelView, _: Target) -> Iterator[Match]:
    """Match TopK with `k` above the limit. Details `{k}`, `{most}`."""
    for node, k in _topk(view):
        if k > MOST_TOPK:
            yield at(node, k=k, most=MOST_TOPK)


def topk_beyond_size(view: ModelView, _: Target) -> Iterator[Match]:
    """Match TopK that asks for more than there is. Details `{k}`, `{size}`."""
    for node, k in _topk(view):
        shape = view.shape(node.input(0))
        axis = int(node.attributes.get("axis", -1))
        if shape and -len(shape) <= axis < len(shape):
            size = shape[axis]
            if size is not None and 0 < size < k:
                yield at(node, k=k, size=size)


def large_window(view: ModelView, _: Target) -> Iterator[Match]:
    """Match pools with a window above the limit. Details `{window}`, `{most}`."""
    for node in view.of("AveragePool", "MaxPool", "LpPool"):
        window = [int(size) for size in node.attributes.get("kernel_shape", [])]
        if len(window) <= 2 and math.prod(window) >= POOL_WINDOW:
            yield at(node, window=" x ".join(map(str, window)), most=POOL_WINDOW - 1)


def pool_rank(view: ModelView, _: Target) -> Iterator[Match]:
    """Match pools over more than three dimensions. Details `{rank}`."""
    for node in view.of("AveragePool", "MaxPool", "LpPool"):
        rank = len(node.attributes.get("kernel_shape", []))
        if rank > 3:
            yield at(node, rank=rank)


def scales_with_axes(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Resize with chosen axes and scales that are computed."""
    for node in view.of("Resize"):
        scales = node.input(2)
        if node.attributes.get("axes") and scales and not view.is_constant(scales):
            yield at(node)


def modulo_of_floats(view: ModelView, _: Target) -> Iterator[Match]:
    """Match Mod with fmod=0 on floats. Details `{type}`."""
    for node in view.of("Mod"):
        kind = view.dtype(node.input(0))
        if "float" in kind and not node.attributes.get("fmod", 0):
            yield at(node, type=kind)


def dynamic_size(view: ModelView, _: Target) -> Iterator[Match]:
    """Match inputs with an open size beside the batch. Details `{value}`, `{shape}`."""
    for value in view.inputs:
        shape = view.shape(value.name)
        if shape is not None and None in shape[1:]:
            text = ", ".join("?" if size is None else str(size) for size in shape)
            yield Match("", details={"value": printable(value.name), "shape": text})


def control_flow(view: ModelView, _: Target) -> Iterator[Match]:
    """Match If, Loop and Scan."""
    for node in view.of("If", "Loop", "Scan"):
        yield at(node)


def not_of_the_opset(view: ModelView, _: Target) -> Iterator[Match]:
    """Match standard operators written in a form that the model's opset does not have.

    Details `{what}`, `{opset}`.
    """
    for node in view.nodes:
        if node.standard and 1 <= view.opset <= onnx.defs.onnx_opset_version():
            what = _form(node, view.opset)
            if what:
                yield at(node, what=what, opset=view.opset)


def _form(node: Node, opset: int) -> str:
    """What of a node its opset does not have; empty if all is well."""
    if not onnx.defs.has(node.op):
        return ""  # an old experimental operator
    try:
        schema = onnx.defs.get_schema(node.op, opset)
    except onnx.defs.SchemaError:
        return "the operator itself"
    if schema.deprecated:
        return ""
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown:
        return f"the attribute {unknown[0]!r}"
    return f"the input number {schema.max_input + 1}" if len(node.inputs) > schema.max_input else ""


def undefined_input(view: ModelView, _: Target) -> Iterator[Match]:
    """Match nodes that read what nobody makes. Details `{value}`."""
    given = set(view.constants) | {value.name for value in view.model.graph.input}
    given |= {tensor.values.name for tensor in view.model.graph.sparse_initializer}
    inner = any(node.standard and node.op in ("If", "Loop", "Scan") for node in view.nodes)
    for node in view.nodes:
        for name in node.inputs:
            # The inputs of subgraphs are not collected.
            if name and name not in given and name not in view.producers and not inner:
                yield at(node, value=printable(name))
                break


def external_data(view: ModelView, _: Target) -> Iterator[Match]:
    """Match a model whose constants lie in other files. Details `{files}`, `{count}`."""
    places = [_location(tensor) for tensor in _external(view)]
    if places:
        files = list(dict.fromkeys(printable(place) for place in places))
        yield Match("", details={"files": ", ".join(files[:3]), "count": len(places)})


def not_folded(view: ModelView, _: Target) -> Iterator[Match]:
    """Match a model without foldcam's metadata."""
    if all(entry.key != METADATA_KEY for entry in view.model.metadata_props):
        yield Match("")


def dla_fallback(view: ModelView, target: Target) -> Iterator[Match]:
    """Match a model for boards with DLA. Details `{boards}`, `{able}`, `{nodes}`, `{rest}`."""
    nodes = [node for node in view.nodes if node.op not in DLA_FREE]
    if not target.dla or not nodes:
        return
    rest: dict[str, int] = {}
    for node in nodes:
        if not node.standard or node.op not in DLA_OPERATORS:
            rest[node.op] = rest.get(node.op, 0) + 1
    able = len(nodes) - sum(rest.values())
    listed = ", ".join(f"{op} ({count})" for op, count in sorted(rest.items())) or "none"
    yield Match(
        "", details={"boards": target.dla, "able": able, "nodes": len(nodes), "rest": listed}
    )


def _topk(view: ModelView) -> Iterator[tuple[Node, int]]:
    for node in view.of("TopK"):
        values = view.array(node.input(1)) if len(node.inputs) > 1 else None
        if values is not None and values.size == 1:
            yield node, int(values.item())
        elif "k" in node.attributes:
            yield node, int(node.attributes["k"])


def _read_by_name(node: Node, target: Target) -> bool:
    return support(node.op, target) == "yes"


def _external(view: ModelView) -> Iterator[TensorProto]:
    for tensor in view.constants.values():
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
