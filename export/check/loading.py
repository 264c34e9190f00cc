"""Reading any ONNX file for the rules: without its external data, types inferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import onnx.shape_inference
from onnx import TensorProto, helper

from export.check.model_view import ModelView
from runtime.errors import FoldcamError
from runtime.onnx_file import read_header

# A protocol-buffer message ends there, and so does every parser of one.
MAX_BYTES = (1 << 31) - 1
# Larger constants say nothing about shapes, and would be copied.
_SHAPE_ELEMENTS = 1 << 12


def load_view(path: Path) -> ModelView:
    """The model of a file, its external data left where it is.

    Types and shapes are inferred with onnx; where that fails they stay unknown, and rules
    that need them stay silent.

    Raises:
        FoldcamError: missing, unreadable, no ONNX file, damaged, or too large for one.
    """
    read_header(path)
    if path.stat().st_size > MAX_BYTES:
        raise FoldcamError(
            f"{path} is {path.stat().st_size / 2**30:.1f} GiB and one ONNX file cannot exceed 2 "
            "GiB: save it with external data (onnx.save_model, save_as_external_data=True)."
        )
    try:
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
        _require_text(model)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.") from error
    if not model.graph.node or not model.graph.output:
        raise FoldcamError(f"{path} holds no network: its graph has no nodes or no outputs.")
    return ModelView(model, _typed(_light(model)))


def _require_text(message: Any) -> None:
    """Raise where a name is not UTF-8: protobuf hands it on as bytes, or only fails when read."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        single = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
        for each in [value] if single else value:
            if hasattr(each, "ListFields"):
                _require_text(each)
            elif not isinstance(each, str):
                raise UnicodeError


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large constants turned into inputs of their type and shape."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name or "graph"
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
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
            return onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:
            continue
    return light
