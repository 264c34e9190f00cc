"""Saying the same in operators that every TensorRT reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx


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
