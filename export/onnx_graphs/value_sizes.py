"""Types and shapes of all values of a graph, and whether one of them is larger than may be."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import TensorProto, helper

from foldcam.export.onnx_graphs.values import graphs
from foldcam.runtime.contract.onnx_sizes import most_bytes, too_large
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

# Larger constants say nothing about shapes, and would be copied.
_SHAPE_ELEMENTS = 1 << 12
_LONGEST_LIST = 1 << 16
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16}
_BYTE = {TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8}


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its large constants, with types and shapes as far as onnx infers them."""
    return _typed(_light(model, model.graph))


def inferred_in_batch(graph: onnx.GraphProto, opset: int, batch: int) -> onnx.ModelProto:
    """The graph without its large constants, with types and shapes inferred for one batch.

    With a number in place of the open batch, sizes that the graph computes from shapes become
    numbers, too.

    Args:
        graph: not changed; its inputs have their batch first.
        opset: the version of ONNX's operators in it.
        batch: what the open first dimensions of its inputs become.
    """
    domains = {node.domain for node in graph.node} - {"", "ai.onnx"}
    header = onnx.ModelProto(ir_version=onnx.IR_VERSION)
    header.opset_import.append(helper.make_opsetid("", opset))
    header.opset_import.extend(helper.make_opsetid(name, 1) for name in sorted(domains))
    light = _light(header, graph)
    # What exporters noted is for an open batch.
    del light.graph.value_info[:]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in light.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch
    return _typed(light)


def check_value_sizes(typed: onnx.ModelProto, path: Path) -> None:
    """Refuse a network of which one value would be larger, for one image, than may be.

    Args:
        path: the file, for the message.
    """
    most = most_bytes()
    for graph in graphs(typed.graph):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            kind = value.type.tensor_type
            size = 2 if kind.elem_type in _HALF else 1 if kind.elem_type in _BYTE else 4
            for dim in kind.shape.dim:
                size *= max(1, dim.dim_value)
            if size > most:
                what = f"the value {printable(shorten(value.name, 80))!r}"
                raise FoldcamError(f"{path}: {too_large(what, size)}")


def _light(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of the graph, its large constants turned into inputs of their type and shape."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = graph.name or "graph"
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        elements = 1
        for size in tensor.dims:
            elements *= size
        if elements <= _SHAPE_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return light


def _typed(light: onnx.ModelProto) -> onnx.ModelProto:
    # Whatever a hostile or merely wrong graph makes onnx's C++ raise, the rules that need
    # no types still hold.
    try:
        if light.functions:
            light = onnx.inliner.inline_local_functions(light)
    except Exception:
        return light
    for keep_types in (True, False):
        if not keep_types:
            # Types written by an earlier tool may contradict the graph.
            del light.graph.value_info[:]
        try:
            plain = onnx.shape_inference.infer_shapes(light)
        except Exception:
            continue
        # Values of lists are kept number by number: of some kilobytes of nodes they may take
        # all memory there is.
        if _has_long_lists(plain):
            return plain
        try:
            return onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:
            return plain
    return light


def _has_long_lists(typed: onnx.ModelProto) -> bool:
    shapes = [value.type.tensor_type.shape.dim for value in typed.graph.value_info]
    return any(len(dims) == 1 and dims[0].dim_value > _LONGEST_LIST for dims in shapes)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, inferred without the weights.

    onnx infers on serialised models, of which none may be larger than 2 GB: a network that
    float16 would bring below that could not be converted.
    """
    typed = inferred(model).graph
    values = [*typed.input, *typed.output, *typed.value_info]
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    types.update((tensor.name, int(tensor.data_type)) for tensor in model.graph.initializer)
    return types
