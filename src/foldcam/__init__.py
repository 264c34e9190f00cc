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
    from foldcam.export import Bank as Bank
    from foldcam.export import ClassifierReport as ClassifierReport
    from foldcam.export import Dataset as Dataset
    from foldcam.export import ExportReport as ExportReport
    from foldcam.export import FoldOptions as FoldOptions
    from foldcam.export import GalleryReport as GalleryReport
    from foldcam.export import LoadedModel as LoadedModel
    from foldcam.export import Sample as Sample
    from foldcam.export import StorageOptions as StorageOptions
    from foldcam.export import TrainingOptions as TrainingOptions
    from foldcam.export import VerifyReport as VerifyReport
    from foldcam.export import add_to_bank_file as add_to_bank_file
    from foldcam.export import build_bank_file as build_bank_file
    from foldcam.export import check_model as check_model
    from foldcam.export import export_classifier as export_classifier
    from foldcam.export import export_model as export_model
    from foldcam.export import find_targets as find_targets
    from foldcam.export import fold_file as fold_file
    from foldcam.export import images_to_verify as images_to_verify
    from foldcam.export import load_dataset as load_dataset
    from foldcam.export import load_model as load_model
    from foldcam.export import make_gallery as make_gallery
    from foldcam.export import parse_kernel as parse_kernel
    from foldcam.export import parse_objective as parse_objective
    from foldcam.export import stored_options as stored_options
    from foldcam.export import train as train
    from foldcam.export import training_data as training_data
    from foldcam.export import verify_model as verify_model
    from foldcam.export import wrap_module as wrap_module
    from foldcam.runtime import Affine as Affine
    from foldcam.runtime import Contract as Contract
    from foldcam.runtime import FoldcamError as FoldcamError
    from foldcam.runtime import FoldedModel as FoldedModel
    from foldcam.runtime import Gallery as Gallery
    from foldcam.runtime import Preprocessing as Preprocessing
    from foldcam.runtime import Result as Result
    from foldcam.runtime import Share as Share
    from foldcam.runtime import Timings as Timings
    from foldcam.runtime import Vote as Vote
    from foldcam.runtime import draw_beside as draw_beside
    from foldcam.runtime import draw_result as draw_result
    from foldcam.runtime import heatmap_on_frame as heatmap_on_frame
    from foldcam.runtime import inspect_model as inspect_model
    from foldcam.runtime import read_contract as read_contract
    from foldcam.runtime import read_image as read_image
    from foldcam.runtime import write_image as write_image

_HOMES = {
    "Affine": "foldcam.runtime",
    "Bank": "foldcam.export",
    "Contract": "foldcam.runtime",
    "ClassifierReport": "foldcam.export",
    "Dataset": "foldcam.export",
    "ExportReport": "foldcam.export",
    "FoldOptions": "foldcam.export",
    "FoldcamError": "foldcam.runtime",
    "FoldedModel": "foldcam.runtime",
    "Gallery": "foldcam.runtime",
    "GalleryReport": "foldcam.export",
    "LoadedModel": "foldcam.export",
    "Preprocessing": "foldcam.runtime",
    "Result": "foldcam.runtime",
    "Sample": "foldcam.export",
    "Share": "foldcam.runtime",
    "StorageOptions": "foldcam.export",
    "Timings": "foldcam.runtime",
    "Vote": "foldcam.runtime",
    "TrainingOptions": "foldcam.export",
    "VerifyReport": "foldcam.export",
    "add_to_bank_file": "foldcam.export",
    "build_bank_file": "foldcam.export",
    "check_model": "foldcam.export",
    "draw_beside": "foldcam.runtime",
    "draw_result": "foldcam.runtime",
    "export_classifier": "foldcam.export",
    "export_model": "foldcam.export",
    "find_targets": "foldcam.export",
    "fold_file": "foldcam.export",
    "heatmap_on_frame": "foldcam.runtime",
    "images_to_verify": "foldcam.export",
    "inspect_model": "foldcam.runtime",
    "load_dataset": "foldcam.export",
    "load_model": "foldcam.export",
    "make_gallery": "foldcam.export",
    "parse_kernel": "foldcam.export",
    "parse_objective": "foldcam.export",
    "read_contract": "foldcam.runtime",
    "read_image": "foldcam.runtime",
    "stored_options": "foldcam.export",
    "train": "foldcam.export",
    "training_data": "foldcam.export",
    "verify_model": "foldcam.export",
    "wrap_module": "foldcam.export",
    "write_image": "foldcam.runtime",
}
__all__ = [
    "Affine",
    "Bank",
    "ClassifierReport",
    "Contract",
    "Dataset",
    "ExportReport",
    "FoldOptions",
    "FoldcamError",
    "FoldedModel",
    "Gallery",
    "GalleryReport",
    "LoadedModel",
    "Preprocessing",
    "Result",
    "Sample",
    "Share",
    "StorageOptions",
    "Timings",
    "TrainingOptions",
    "VerifyReport",
    "Vote",
    "add_to_bank_file",
    "build_bank_file",
    "check_model",
    "draw_beside",
    "draw_result",
    "export_classifier",
    "export_model",
    "find_targets",
    "fold_file",
    "heatmap_on_frame",
    "images_to_verify",
    "inspect_model",
    "load_dataset",
    "load_model",
    "make_gallery",
    "parse_kernel",
    "parse_objective",
    "read_contract",
    "read_image",
    "stored_options",
    "train",
    "training_data",
    "verify_model",
    "wrap_module",
    "write_image",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
