"""The device: folded ONNX or engine -> frames with embedding and heatmap. No torch, no onnx.

Example:
    >>> from runtime import FoldedModel, read_image
    >>> model = FoldedModel.load("model.onnx")
    >>> result = model(read_image("photo.png"))
    >>> result.labels
    ['red']

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lazy import lazy_names
from runtime.pixel_limit import bound_decoder
from runtime.quiet_libraries import keep_libraries_quiet

if TYPE_CHECKING:
    from runtime.contract import Contract as Contract
    from runtime.errors import FoldcamError as FoldcamError
    from runtime.images import read_image as read_image
    from runtime.images import write_image as write_image
    from runtime.inspect import inspect_model as inspect_model
    from runtime.model import FoldedModel as FoldedModel
    from runtime.model import Result as Result
    from runtime.model import Timings as Timings
    from runtime.onnx_file import read_contract as read_contract
    from runtime.overlay import heatmap_on_frame as heatmap_on_frame
    from runtime.picture import draw_result as draw_result
    from runtime.preprocess import Affine as Affine
    from runtime.preprocess import Preprocessing as Preprocessing

_HOMES = {
    "Affine": "runtime.preprocess",
    "Contract": "runtime.contract",
    "FoldcamError": "runtime.errors",
    "FoldedModel": "runtime.model",
    "Preprocessing": "runtime.preprocess",
    "Result": "runtime.model",
    "Timings": "runtime.model",
    "draw_result": "runtime.picture",
    "heatmap_on_frame": "runtime.overlay",
    "inspect_model": "runtime.inspect",
    "read_contract": "runtime.onnx_file",
    "read_image": "runtime.images",
    "write_image": "runtime.images",
}
__all__ = [
    "Affine",
    "Contract",
    "FoldcamError",
    "FoldedModel",
    "Preprocessing",
    "Result",
    "Timings",
    "draw_result",
    "heatmap_on_frame",
    "inspect_model",
    "read_contract",
    "read_image",
    "write_image",
]

# Before anything of this program can load OpenCV.
bound_decoder()
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

keep_libraries_quiet()
