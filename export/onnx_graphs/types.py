"""The element types of a graph's values."""

from __future__ import annotations

import onnx
from onnx import helper

# Bytes of a constant that may be a shape, which the inference of others needs.
_SMALL = 1 << 10


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, inferred without the weights.

    onnx infers on serialised models, of which none may be larger than 2 GB: a network that
    float16 would bring below that could not be converted.
    """
    graph = model.graph
    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.graph.name = "bare"
    bare.graph.node.extend(graph.node)
    bare.graph.input.extend(graph.input)
    bare.graph.output.extend(graph.output)
    declared = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if len(tensor.raw_data) <= _SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.graph.input.append(value)
    inferred = onnx.shape_inference.infer_shapes(bare).graph
    values = [*inferred.input, *inferred.output, *inferred.value_info]
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    types.update((tensor.name, int(tensor.data_type)) for tensor in graph.initializer)
    return types
