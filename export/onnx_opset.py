"""An ONNX graph in another operator set, proven to compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter

from export.embedding_model import opset_of
from export.onnx_graph import prune
from export.onnx_session import GraphSession, reason
from runtime.errors import FoldcamError

OLDEST = 17
"""What TensorRT 8.6 reads and the fold is written in."""


def in_opset(model: onnx.ModelProto, opset: int, images: np.ndarray) -> onnx.ModelProto:
    """The graph in that operator set.

    ONNX's converter goes first. Where it gives up, the graph is only called one of the
    other set: most operators mean the same in both. Either is checked, and compared with
    the original on images.

    Args:
        model: the graph, with one input; not changed.
        opset: the operator set wanted.
        images: what its input takes, to compare on.

    Returns:
        The model itself where it is in that set already.

    Raises:
        FoldcamError: it cannot be said in that set.
    """
    if opset_of(model) == opset:
        return model
    expected = _outputs(model, images)
    problem = ""
    for attempt in (_converted, _relabelled):
        try:
            changed = attempt(model, opset)
            onnx.checker.check_model(changed, full_check=True)
            if _agree(expected, _outputs(changed, images)):
                return changed
            problem = problem or "what comes out computes something else"
        except Exception as error:
            # The converter is a C++ library, whose exceptions have no type in common.
            problem = problem or reason(error)
    has = opset_of(model)
    mend = f"use --opset {has}" if has >= OLDEST else f"export it again in opset {OLDEST} or later"
    raise FoldcamError(
        f"The network is in ONNX opset {has}, which cannot be converted to {opset} ({problem}): "
        f"{mend}."
    )


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = onnx.version_converter.convert_version(model, opset)
    for node in changed.graph.node:
        # The converter forgets to drop it, and it says what is so without it.
        kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
        if len(kept) < len(node.attribute) and opset < 18 and node.op_type != "ReduceSum":
            del node.attribute[:]
            node.attribute.extend(kept)
    prune(changed.graph)
    return changed


def _relabelled(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.opset_import[:]
    changed.opset_import.append(onnx.helper.make_opsetid("", opset))
    return changed


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    return GraphSession(model, [str(value.name) for value in model.graph.output]).run(images)


def _agree(expected: list[np.ndarray], found: list[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(a).max()))
        for a, b in zip(expected, found, strict=True)
    )
