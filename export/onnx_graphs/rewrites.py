"""Saying the same in operators that every TensorRT reads, constants computed beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from foldcam.export.onnx_graphs.session import Array, NodeRunner
from foldcam.export.onnx_graphs.values import Flow, prune, refill


def sizes_of(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The shapes that a graph notes down, 0 for what is open."""
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.output]
    }


def global_pools(graph: onnx.GraphProto, sizes: Mapping[str, Sequence[int]]) -> None:
    """Turn average pools whose window covers the whole map into global ones.

    TensorRT refuses windows of a million positions, which is how some networks (the
    EfficientNet of transformers) ask for a global pool.
    """
    for node in graph.node:
        if node.op_type != "AveragePool":
            continue
        attributes = {each.name: each for each in node.attribute}
        window = list(attributes["kernel_shape"].ints)
        padded = "pads" in attributes and any(attributes["pads"].ints)
        padded = padded or ("auto_pad" in attributes and attributes["auto_pad"].s != b"NOTSET")
        whole = list(sizes.get(node.input[0], []))[2:]
        covers = len(whole) == len(window) and all(
            0 < size <= reach for size, reach in zip(whole, window, strict=True)
        )
        single = list(sizes.get(node.output[0], []))[2:] == [1] * len(window)
        if covers and single and not padded:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]


# A result larger than what it is computed from makes the file larger: up to this it may be.
MOST_BYTES = 1 << 24
_NUMBERS = "fiub"


def fold_constants(model: onnx.ModelProto) -> None:
    """Put what depends on constants alone into the file as a constant.

    Exporters leave such steps: the positions of a transformer brought to the size of the image
    by a cubic Resize, which TensorRT does not have.

    A result that is larger than the constants it comes from, such as an Expand, stays computed
    once the file has grown by `MOST_BYTES`.
    """
    flow = Flow(model.graph)
    fixed = [
        number
        for number, node in enumerate(flow.nodes)
        if all(name in flow.fixed for name in node.output if name)
    ]
    if not fixed:
        return
    read = {name for number in fixed for name in flow.inputs[number]}
    values: dict[str, Array] = {
        str(tensor.name): numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in read
    }
    # The constants that each value comes from, and how many bytes they have.
    origins = {name: {name: array.nbytes} for name, array in values.items()}
    # What the rest of the graph reads: only that has to be kept.
    inside = set(fixed)
    wanted = {str(value.name) for value in model.graph.output}
    for number, inputs in enumerate(flow.inputs):
        wanted.update(inputs if number not in inside else ())
    runner = NodeRunner(model.opset_import, model.ir_version)
    left = MOST_BYTES
    folded: set[int] = set()
    for number in fixed:
        node = flow.nodes[number]
        found = runner.run(node, values)
        values.update(found)
        origin = {n: size for name in flow.inputs[number] for n, size in origins[name].items()}
        if node.op_type == "Constant":
            origin = {name: array.nbytes for name, array in found.items()}
        origins.update(dict.fromkeys(found, origin))
        kept = {name: array for name, array in found.items() if name in wanted}
        grows = sum(array.nbytes for array in kept.values()) - sum(origin.values())
        numbers = all(array.dtype.kind in _NUMBERS for array in found.values())
        if not kept or not numbers or grows > left:
            continue
        left -= max(grows, 0)
        folded.add(number)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array), name) for name, array in found.items()
        )
    refill(
        model.graph.node, [node for number, node in enumerate(flow.nodes) if number not in folded]
    )
    prune(model.graph)
