"""An ONNX graph in another operator set, proven to compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter

from foldcam.export.onnx_graphs.embedding_model import OLDEST_OPSET, opset_of
from foldcam.export.onnx_graphs.session import GraphSession, reason
from foldcam.export.onnx_graphs.values import prune
from foldcam.runtime.system.errors import FoldcamError


def in_opset(model: onnx.ModelProto, opset: int, images: np.ndarray) -> onnx.ModelProto:
    """The graph in that operator set.

    ONNX's converter goes first. Where it gives up, the graph is only called one of the
    other set: most operators mean the same in both. Last, operators that the other set
    lacks are spelled out. Whatever comes out is checked, and compared with the original.
    """
    if opset_of(model) == opset:
        return model
    expected = _outputs(model, images)
    problem = ""
    for attempt in (_converted, _relabelled, _spelled_out):
        try:
            changed = attempt(model, opset)
            _declare(changed, expected)
            onnx.checker.check_model(changed, full_check=True)
            if _agree(expected, _outputs(changed, images), 2e-2 if _is_half(model) else 1e-4):
                return changed
            problem = problem or "what comes out computes something else"
        except Exception as error:
            # The converter is a C++ library, whose exceptions have no type in common.
            problem = problem or reason(error)
    has = opset_of(model)
    remedy = (
        f"use --opset {has}"
        if has >= OLDEST_OPSET
        else f"export it again in opset {OLDEST_OPSET} or later"
    )
    raise FoldcamError(
        f"The network is in ONNX opset {has}, which cannot be converted to {opset} ({problem}): "
        f"{remedy}."
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


def _spelled_out(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Operators that the other set lacks, such as Gelu before 20, are written as what they are."""
    lacking = sorted(
        {node.op_type for node in model.graph.node if not _exists(str(node.op_type), opset)}
    )
    inlined = onnx.inliner.inline_selected_functions(
        model, [("", name) for name in lacking], inline_schema_functions=True
    )
    try:
        return _converted(inlined, opset)
    except Exception:
        # As in `in_opset`: the converter gives up on operators that mean the same.
        return _relabelled(inlined, opset)


def _exists(operator: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _declare(model: onnx.ModelProto, arrays: list[np.ndarray]) -> None:
    """Say how many dimensions the outputs have, which nobody infers behind a Reshape to sizes
    that the graph computes, and without which a file is not valid."""
    for value, array in zip(model.graph.output, arrays, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(value.name, kind, [None] * array.ndim)
            )


def _outputs(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    return GraphSession(model, [str(value.name) for value in model.graph.output]).run(images)


def _is_half(model: onnx.ModelProto) -> bool:
    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)


def _agree(expected: list[np.ndarray], found: list[np.ndarray], tolerance: float) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance * float(np.abs(a).max()))
        for a, b in zip(expected, found, strict=True)
    )
