"""Reading any ONNX file for the rules: without its external data, types inferred."""

from __future__ import annotations

from pathlib import Path

import onnx

from foldcam.export.check.model_view import ModelView
from foldcam.export.onnx_graphs.message import require_text
from foldcam.export.onnx_graphs.value_sizes import check_value_sizes, inferred
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.errors import FoldcamError

# A protocol-buffer message ends there, and so does every parser of one.
MAX_BYTES = (1 << 31) - 1


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
        require_text(model)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise FoldcamError(f"{path} is not an ONNX file, or it is damaged.") from error
    if not model.graph.node or not model.graph.output:
        raise FoldcamError(f"{path} holds no network: its graph has no nodes or no outputs.")
    typed = inferred(model)
    check_value_sizes(typed, path)
    return ModelView(model, typed)
