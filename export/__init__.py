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
    from export.grafting.fold import FoldOptions as FoldOptions
    from export.grafting.refold import FoldWishes as FoldWishes
    from export.grafting.refold import fold_file as fold_file
    from export.models.spec import LoadedModel as LoadedModel
    from export.models.spec import load_model as load_model
    from export.models.spec import wrap_module as wrap_module
    from export.objectives.directions import parse_objective as parse_objective
    from export.objectives.kernel import parse_kernel as parse_kernel
    from export.storage.options import StorageOptions as StorageOptions
    from export.training.trainer import TrainingOptions as TrainingOptions
    from export.training.trainer import train as train
    from export.verification.images import images_to_verify as images_to_verify
    from export.verification.run import VerifyReport as VerifyReport
    from export.verification.run import verify_model as verify_model

_HOMES = {
    "Bank": "export.bank",
    "Dataset": "export.datasets",
    "ExportReport": "export.exporter",
    "FoldOptions": "export.grafting.fold",
    "FoldWishes": "export.grafting.refold",
    "LoadedModel": "export.models.spec",
    "Sample": "export.datasets",
    "StorageOptions": "export.storage.options",
    "TrainingOptions": "export.training.trainer",
    "VerifyReport": "export.verification.run",
    "add_to_bank_file": "export.bank_files",
    "build_bank_file": "export.bank_files",
    "check_model": "export.check.checker",
    "export_model": "export.exporter",
    "find_targets": "export.check.targets",
    "fold_file": "export.grafting.refold",
    "images_to_verify": "export.verification.images",
    "load_dataset": "export.datasets",
    "load_model": "export.models.spec",
    "parse_kernel": "export.objectives.kernel",
    "parse_objective": "export.objectives.directions",
    "train": "export.training.trainer",
    "training_data": "export.datasets",
    "verify_model": "export.verification.run",
    "wrap_module": "export.models.spec",
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
