"""The device: folded ONNX or engine -> frames with embedding and heatmap. No torch, no onnx.

Example:
    >>> from runtime import FoldedModel, read_image
    >>> model = FoldedModel.load("model.onnx")
    >>> result = model(read_image("photo.jpg"))
    >>> result.labels[0], float(result.similarities[0])
    ('owl', 0.93)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.errors import FoldcamError as FoldcamError
    from runtime.images import read_image as read_image
    from runtime.images import write_image as write_image
    from runtime.model import FoldedModel as FoldedModel
    from runtime.model import Result as Result

_HOMES = {
    "FoldcamError": "runtime.errors",
    "FoldedModel": "runtime.model",
    "Result": "runtime.model",
    "read_image": "runtime.images",
    "write_image": "runtime.images",
}
__all__ = ["FoldcamError", "FoldedModel", "Result", "read_image", "write_image"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import runtime` pulls in neither OpenCV nor ONNX Runtime.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
