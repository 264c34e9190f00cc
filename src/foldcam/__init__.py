"""Embedding and heatmap from one forward pass: Grad-CAM folded into an embedding network's graph.

Example:
    >>> import foldcam
    >>> model = foldcam.FoldedModel.load("model.onnx")
    >>> result = model(foldcam.read_image("photo.png"))
    >>> result.labels
    ['red']

The names of `__all__` are public, and docs/api.md says what is promised of them. Each is loaded on
first use: `import foldcam` itself loads neither torch nor onnx nor OpenCV, and what comes from
`foldcam.runtime` never needs torch or onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.system.lazy import lazy_names

if TYPE_CHECKING:
    from foldcam.export import *  # noqa: F403
    from foldcam.runtime import *  # noqa: F403

# Named here and not read from `foldcam.export`, which a device may lack.
_OF_EXPORT = (
    "Bank",
    "ClassifierReport",
    "Dataset",
    "ExportReport",
    "FoldOptions",
    "GalleryReport",
    "LoadedModel",
    "Sample",
    "StorageOptions",
    "TrainingOptions",
    "VerifyReport",
    "add_to_bank_file",
    "build_bank_file",
    "check_model",
    "export_classifier",
    "export_model",
    "find_targets",
    "fold_file",
    "images_to_verify",
    "load_dataset",
    "load_model",
    "make_gallery",
    "parse_kernel",
    "parse_objective",
    "stored_options",
    "train",
    "training_data",
    "verify_model",
    "wrap_module",
)
_OF_RUNTIME = (
    "Affine",
    "Contract",
    "FoldcamError",
    "FoldedModel",
    "Gallery",
    "Preprocessing",
    "Result",
    "Share",
    "Timings",
    "Vote",
    "draw_beside",
    "draw_result",
    "heatmap_on_frame",
    "inspect_model",
    "read_contract",
    "read_image",
    "write_image",
)

__all__ = sorted((*_OF_EXPORT, *_OF_RUNTIME))

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(_OF_EXPORT, "foldcam.export"),
        **dict.fromkeys(_OF_RUNTIME, "foldcam.runtime"),
    },
)
