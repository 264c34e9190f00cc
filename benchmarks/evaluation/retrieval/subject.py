"""What is asked: a folded model and its bank, or a network that is folded first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foldcam.benchmarks.evaluation.explanation.data import Parts
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.pictures import RowPictures
from foldcam.export.datasets import Dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.frame import frameless
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.models.spec import LoadedModel
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True, eq=False)
class Subject:
    """A folded model that is ready to be asked.

    Attributes:
        model: the folded model.
        bank: its rows; with names and hashes where they are known.
        pictures: of the rows.
    """

    model: FoldedModel
    bank: Bank
    pictures: RowPictures


@contextmanager
def folded_subject(
    path: Path, bank: Path | None, dataset: Dataset | None, device: Device = CPU
) -> Iterator[Subject]:
    """A folded model, by default on the CPU, where figures are the same.

    Args:
        path: the folded model.
        bank: the file of its bank, which knows names and hashes of its pictures; or None.
        dataset: where the pictures of the bank's rows may be.
        device: where the model runs.

    Raises:
        FoldcamError: a file cannot be read, or the bank is not the model's.
    """
    rows = rows_of_model(path, bank)
    with frameless(path) as file, FoldedModel.load(file, provider=device.provider) as model:
        yield Subject(model, rows, RowPictures(rows, dataset))


@contextmanager
def network_subject(
    loaded: LoadedModel,
    parts: Parts,
    preprocessing: Preprocessing,
    layer: str | None,
    progress: Callable[[str, int, int], None],
) -> Iterator[Subject]:
    """A network, folded with the training images into a temporary file.

    Args:
        loaded: the network.
        parts: the images of the bank, and those to measure on.
        preprocessing: how an image becomes its input.
        layer: the feature map's name, None to find it.
        progress: called with the stage, images done and images in all.

    Raises:
        FoldcamError: anything about network or data that cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="foldcam-retrieval-") as folder:
        path = Path(folder) / "model.onnx"
        report = export_model(
            loaded, parts.training, path, preprocessing=preprocessing, layer=layer,
            progress=progress,
        )  # fmt: skip
        rows = report.bank.bank
        with FoldedModel.load(path, provider=loaded.device.provider) as model:
            yield Subject(model, rows, RowPictures(rows, parts.training))


def rows_of_model(path: Path, bank: Path | None = None) -> Bank:
    """The rows of a folded model.

    Args:
        path: the folded model.
        bank: the file of its bank, which knows the hashes of its pictures.

    Raises:
        FoldcamError: a file cannot be read, or the bank is not the model's.
    """
    contract = read_contract(path)
    if bank is None or contract.bank_input is not None:
        return bank_of(load_message(path), contract)
    given = Bank.load(bank)
    if given.row_labels() != [r.name for r in contract.labels for _ in range(r.count)]:
        raise FoldcamError(
            f"--bank {bank} has other rows than {path}: give the bank that it was folded with."
        )
    return given
