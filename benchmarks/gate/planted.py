"""A folded graph made slower on purpose: what the gate must catch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldcam.runtime.contract.schema import IMAGE

BURNED = "planted"
"""Output that keeps the extra nodes from being removed as dead."""
_ROWS, _WIDTH = 16, 256


def planted(model: onnx.ModelProto, products: int) -> onnx.ModelProto:
    """The graph with a chain of matrix products of the image's first pixels behind it.

    Each multiplies `[16, 256]` by an orthogonal `[256, 256]`, which keeps the numbers in
    range; the chain's maximum is one more output.

    Args:
        model: with an `image` of at least 4096 numbers, run with one image. Not changed.
        products: length of the chain, from 1 on.
    """
    slow = onnx.ModelProto()
    slow.CopyFrom(model)
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(_WIDTH, _WIDTH)))[0]
    constants: dict[str, Any] = {
        "planted.matrix": matrix.astype(np.float32),
        "planted.flat": np.array([-1], np.int64),
        "planted.start": np.array([0], np.int64),
        "planted.end": np.array([_ROWS * _WIDTH], np.int64),
        "planted.shape": np.array([_ROWS, _WIDTH], np.int64),
    }
    slow.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    nodes = [
        helper.make_node("Reshape", [IMAGE, "planted.flat"], ["planted.pixels"]),
        helper.make_node(
            "Slice", ["planted.pixels", "planted.start", "planted.end"], ["planted.first"]
        ),
        # The image may be of bytes.
        helper.make_node("Cast", ["planted.first"], ["planted.numbers"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["planted.numbers", "planted.shape"], ["planted.0"]),
    ]
    nodes += [
        helper.make_node(
            "MatMul", [f"planted.{number}", "planted.matrix"], [f"planted.{number + 1}"]
        )
        for number in range(products)
    ]
    nodes.append(helper.make_node("ReduceMax", [f"planted.{products}"], [BURNED], keepdims=0))
    slow.graph.node.extend(nodes)
    slow.graph.output.append(helper.make_tensor_value_info(BURNED, onnx.TensorProto.FLOAT, []))
    return slow
