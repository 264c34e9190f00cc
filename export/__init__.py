"""The workstation: network + training images -> folded ONNX.

Example:
    >>> from export import export_model, load_model, training_data
    >>> network = load_model("my_network:make_network")
    >>> report = export_model(network, training_data("photos"), "model.onnx")
    >>> report.contract.bank.rows
    24

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lazy import lazy_names

if TYPE_CHECKING:
    from export.bank import Bank as Bank
    from export.bank_files import add_to_bank_file as add_to_bank_file
    from export.bank_files import build_bank_file as build_bank_file
    from export.check.checker import check_model as check_model
    from export.check.targets import find_targets as find_targets
    from export.datasets import Dataset as Dataset
    from export.datasets import Sample as Sample
    from export.datasets import load_dataset as load_dataset
    from export.datasets import training_data as training_data
    from export.exporter import ExportReport as ExportReport
    from export.exporter import export_model as export_model
    from export.fold import FoldOptions as FoldOptions
    from export.kernel import parse_kernel as parse_kernel
    from export.model_spec import LoadedModel as LoadedModel
    from export.model_spec import load_model as load_model
    from export.model_spec import wrap_module as wrap_module
    from export.objectives import parse_objective as parse_objective
    from export.refold import FoldWishes as FoldWishes
    from export.refold import fold_file as fold_file
    from export.storage_options import StorageOptions as StorageOptions
    from export.training.trainer import TrainingOptions as TrainingOptions
    from export.training.trainer import train as train
    from export.verify import VerifyReport as VerifyReport
    from export.verify import verify_model as verify_model
    from export.verify_images import images_to_verify as images_to_verify

_HOMES = {
    "Bank": "export.bank",
    "Dataset": "export.datasets",
    "ExportReport": "export.exporter",
    "FoldOptions": "export.fold",
    "FoldWishes": "export.refold",
    "LoadedModel": "export.model_spec",
    "Sample": "export.datasets",
    "StorageOptions": "export.storage_options",
    "TrainingOptions": "export.training.trainer",
    "VerifyReport": "export.verify",
    "add_to_bank_file": "export.bank_files",
    "build_bank_file": "export.bank_files",
    "check_model": "export.check.checker",
    "export_model": "export.exporter",
    "find_targets": "export.check.targets",
    "fold_file": "export.refold",
    "images_to_verify": "export.verify_images",
    "load_dataset": "export.datasets",
    "load_model": "export.model_spec",
    "parse_kernel": "export.kernel",
    "parse_objective": "export.objectives",
    "train": "export.training.trainer",
    "training_data": "export.datasets",
    "verify_model": "export.verify",
    "wrap_module": "export.model_spec",
}
__all__ = [
    "Bank",
    "Dataset",
    "ExportReport",
    "FoldOptions",
    "FoldWishes",
    "LoadedModel",
    "Sample",
    "StorageOptions",
    "TrainingOptions",
    "VerifyReport",
    "add_to_bank_file",
    "build_bank_file",
    "check_model",
    "export_model",
    "find_targets",
    "fold_file",
    "images_to_verify",
    "load_dataset",
    "load_model",
    "parse_kernel",
    "parse_objective",
    "train",
    "training_data",
    "verify_model",
    "wrap_module",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
