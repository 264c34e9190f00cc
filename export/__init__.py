"""The workstation: network + training images -> folded ONNX.

Example:
    >>> from foldcam import export_model, load_model, training_data
    >>> network = load_model("my_network:make_network")
    >>> report = export_model(network, training_data("photos"), "model.onnx")
    >>> report.contract.bank.rows
    24

What is public is in `__all__`, and docs/api.md says what is promised of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldcam.runtime.system.lazy import lazy_names

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank as Bank
    from foldcam.export.banks.objectives.directions import parse_objective as parse_objective
    from foldcam.export.banks.objectives.kernel import parse_kernel as parse_kernel
    from foldcam.export.datasets import Dataset as Dataset
    from foldcam.export.datasets import Sample as Sample
    from foldcam.export.datasets import load_dataset as load_dataset
    from foldcam.export.datasets import training_data as training_data
    from foldcam.export.exporting.bank_files import add_to_bank_file as add_to_bank_file
    from foldcam.export.exporting.bank_files import build_bank_file as build_bank_file
    from foldcam.export.exporting.classifier_exporter import ClassifierReport as ClassifierReport
    from foldcam.export.exporting.classifier_exporter import export_classifier as export_classifier
    from foldcam.export.exporting.exporter import ExportReport as ExportReport
    from foldcam.export.exporting.exporter import export_model as export_model
    from foldcam.export.exporting.gallery import GalleryReport as GalleryReport
    from foldcam.export.exporting.gallery import make_gallery as make_gallery
    from foldcam.export.grafting.fold import FoldOptions as FoldOptions
    from foldcam.export.grafting.options import StorageOptions as StorageOptions
    from foldcam.export.grafting.refold import fold_file as fold_file
    from foldcam.export.grafting.refold import stored_options as stored_options
    from foldcam.export.models.spec import LoadedModel as LoadedModel
    from foldcam.export.models.spec import load_model as load_model
    from foldcam.export.models.spec import wrap_module as wrap_module
    from foldcam.export.models.training.trainer import TrainingOptions as TrainingOptions
    from foldcam.export.models.training.trainer import train as train
    from foldcam.export.verification.check.checker import check_model as check_model
    from foldcam.export.verification.check.targets import find_targets as find_targets
    from foldcam.export.verification.images import images_to_verify as images_to_verify
    from foldcam.export.verification.run import VerifyReport as VerifyReport
    from foldcam.export.verification.run import verify_model as verify_model

_HOMES = {
    "Bank": "foldcam.export.banks.bank",
    "ClassifierReport": "foldcam.export.exporting.classifier_exporter",
    "Dataset": "foldcam.export.datasets",
    "ExportReport": "foldcam.export.exporting.exporter",
    "FoldOptions": "foldcam.export.grafting.fold",
    "GalleryReport": "foldcam.export.exporting.gallery",
    "LoadedModel": "foldcam.export.models.spec",
    "Sample": "foldcam.export.datasets",
    "StorageOptions": "foldcam.export.grafting.options",
    "TrainingOptions": "foldcam.export.models.training.trainer",
    "VerifyReport": "foldcam.export.verification.run",
    "add_to_bank_file": "foldcam.export.exporting.bank_files",
    "build_bank_file": "foldcam.export.exporting.bank_files",
    "check_model": "foldcam.export.verification.check.checker",
    "export_classifier": "foldcam.export.exporting.classifier_exporter",
    "export_model": "foldcam.export.exporting.exporter",
    "find_targets": "foldcam.export.verification.check.targets",
    "fold_file": "foldcam.export.grafting.refold",
    "images_to_verify": "foldcam.export.verification.images",
    "load_dataset": "foldcam.export.datasets",
    "load_model": "foldcam.export.models.spec",
    "make_gallery": "foldcam.export.exporting.gallery",
    "parse_kernel": "foldcam.export.banks.objectives.kernel",
    "parse_objective": "foldcam.export.banks.objectives.directions",
    "stored_options": "foldcam.export.grafting.refold",
    "train": "foldcam.export.models.training.trainer",
    "training_data": "foldcam.export.datasets",
    "verify_model": "foldcam.export.verification.run",
    "wrap_module": "foldcam.export.models.spec",
}
__all__ = list(_HOMES)

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
