"""The device: folded ONNX or engine -> frames with embedding and heatmap. No torch, no onnx.

Example:
    >>> from foldcam import FoldedModel, read_image
    >>> model = FoldedModel.load("model.onnx")
    >>> result = model(read_image("photo.png"))
    >>> result.labels
    ['red']

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.images.pixel_limit import bound_decoder
from foldcam.runtime.system.lazy import lazy_names
from foldcam.runtime.system.quiet_libraries import keep_libraries_quiet

if TYPE_CHECKING:
    from foldcam.runtime.contract.gallery import Gallery as Gallery
    from foldcam.runtime.contract.onnx_file import read_contract as read_contract
    from foldcam.runtime.contract.schema import Contract as Contract
    from foldcam.runtime.engine.inspect import inspect_model as inspect_model
    from foldcam.runtime.images.files import read_image as read_image
    from foldcam.runtime.images.files import write_image as write_image
    from foldcam.runtime.images.preprocess import Affine as Affine
    from foldcam.runtime.images.preprocess import Preprocessing as Preprocessing
    from foldcam.runtime.model.drawing.overlay import heatmap_on_frame as heatmap_on_frame
    from foldcam.runtime.model.evidence import Share as Share
    from foldcam.runtime.model.folded_model import FoldedModel as FoldedModel
    from foldcam.runtime.model.match import draw_beside as draw_beside
    from foldcam.runtime.model.result import Result as Result
    from foldcam.runtime.model.result import Timings as Timings
    from foldcam.runtime.model.result import draw_result as draw_result
    from foldcam.runtime.model.vote import Vote as Vote
    from foldcam.runtime.system.errors import FoldcamError as FoldcamError

_HOMES = {
    "Affine": "foldcam.runtime.images.preprocess",
    "Contract": "foldcam.runtime.contract.schema",
    "FoldcamError": "foldcam.runtime.system.errors",
    "FoldedModel": "foldcam.runtime.model.folded_model",
    "Gallery": "foldcam.runtime.contract.gallery",
    "Preprocessing": "foldcam.runtime.images.preprocess",
    "Result": "foldcam.runtime.model.result",
    "Share": "foldcam.runtime.model.evidence",
    "Timings": "foldcam.runtime.model.result",
    "Vote": "foldcam.runtime.model.vote",
    "draw_beside": "foldcam.runtime.model.match",
    "draw_result": "foldcam.runtime.model.result",
    "heatmap_on_frame": "foldcam.runtime.model.drawing.overlay",
    "inspect_model": "foldcam.runtime.engine.inspect",
    "read_contract": "foldcam.runtime.contract.onnx_file",
    "read_image": "foldcam.runtime.images.files",
    "write_image": "foldcam.runtime.images.files",
}
__all__ = sorted(_HOMES)

# Before anything of this program can load OpenCV.
bound_decoder()
__getattr__, __dir__ = lazy_names(__name__, _HOMES)

keep_libraries_quiet()
