"""Does the nearest bank row have the right label? Recall of a folded model on labelled images.

An image that is in the bank finds itself, which says nothing: its own rows are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.bootstrap import Interval, bootstrap
from foldcam.export.bank import Bank
from foldcam.export.datasets import Dataset
from foldcam.export.datasets.reading import read_picture
from foldcam.export.device import CPU, Device
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.model import FoldedModel

_BATCH = 8
# Cosine from which a row is the image's own; a bank of smaller numbers is less exact.
_SAME_ROW = {True: 0.99999, False: 0.999}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalReport:
    """Recall of a folded model.

    Attributes:
        images: readable images whose label the bank knows.
        recall_at_1: share whose nearest row has the image's label, with its interval.
        per_label: label -> (images, share).
        unknown_labels: images left out because the bank has no row of their label.
        skipped: images that could not be read or have no answer, with the reason.
        own_images: how many are in the bank themselves, whose own rows were left out.
        notes: what the reader of the figures should know first, one sentence each.
    """

    images: int
    recall_at_1: Interval
    per_label: dict[str, tuple[int, float]]
    unknown_labels: int
    skipped: tuple[tuple[str, str], ...]
    own_images: int = 0
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "images": self.images,
            "recall_at_1": asdict(self.recall_at_1),
            "per_label": {
                label: {"images": count, "recall_at_1": share}
                for label, (count, share) in self.per_label.items()
            },
            "unknown_labels": self.unknown_labels,
            "own_images": self.own_images,
            "notes": list(self.notes),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
        }


def evaluate_retrieval(
    model: FoldedModel,
    dataset: Dataset,
    progress: Callable[[str, int, int], None] | None = None,
    bank: Bank | None = None,
) -> RetrievalReport:
    """Run the folded model over labelled images and count right labels.

    Args:
        model: the folded model.
        dataset: labelled images.
        progress: called with the stage, images done and images in all.
        bank: the model's rows, by which an image of the bank is known: by the hash of its
            picture where the bank has them, else by an embedding that is the same. None
            compares with all rows as the model does.

    Raises:
        FoldcamError: no image can be read, or the bank knows none of the labels.
    """
    known = {run.name for run in model.contract.labels}
    samples = [sample for sample in dataset.samples if sample.label in known]
    if not samples:
        raise FoldcamError(
            f"The bank has no row of any label in {dataset.name}: is it the data set that the "
            "model was exported with?"
        )
    right: list[bool] = []
    labels: list[str] = []
    skipped: list[tuple[str, str]] = []
    rows = None if bank is None else OwnRows(bank, model.contract)
    own_images = 0
    for start in range(0, len(samples), _BATCH):
        images, wanted = [], []
        for sample in samples[start : start + _BATCH]:
            try:
                picture = read_picture(sample)
                images.append(picture.image)
                wanted.append((sample, picture.sha256))
            except FoldcamError as error:
                skipped.append((sample.name, str(error)))
        for result, (sample, sha256) in zip(model.run_batch(images), wanted, strict=True):
            if not np.isfinite(result.embedding).all():
                skipped.append((sample.name, "the network gives numbers that are not finite"))
                continue
            other = None if rows is None else rows.nearest_other(result.embedding, sha256)
            own_images += other is not None
            right.append((result.labels[0] if other is None else other) == sample.label)
            labels.append(sample.label)
        if progress:
            progress("retrieval", min(start + _BATCH, len(samples)), len(samples))
    if not right:
        raise FoldcamError(f"None of the images could be read; the first: {skipped[0][1]}")
    per_label = {
        label: [r for r, actual in zip(right, labels, strict=True) if actual == label]
        for label in sorted(set(labels))
    }
    return RetrievalReport(
        images=len(right),
        recall_at_1=bootstrap([float(value) for value in right]),
        per_label={name: (len(v), sum(v) / len(v)) for name, v in per_label.items()},
        unknown_labels=len(dataset.samples) - len(samples),
        skipped=tuple(skipped),
        own_images=own_images,
        notes=tuple(_own_notes(model.contract, dataset, own_images, len(right))),
    )


def _own_notes(contract: Contract, dataset: Dataset, own: int, images: int) -> list[str]:
    if own:
        return [
            f"{own} of the {images} images are in the bank: each was compared with the other rows "
            "alone."
        ]
    origin = contract.origin
    if origin.data == dataset.name and origin.split in (dataset.split, "all"):
        return [
            f"The bank was built from {origin.data}, split {origin.split}, too: images of the bank "
            "find themselves, and then the share below says nothing; give images that are not in "
            "it, or the bank's own file with --bank."
        ]
    return []


class OwnRows:
    """Finds the rows of a bank that an image is itself.

    Args:
        bank: of a folded model.
        contract: the model's.
    """

    def __init__(self, bank: Bank, contract: Contract) -> None:
        self._embeddings = bank.embeddings
        self._labels = np.asarray(bank.row_labels(), object)
        self._hashes = None if bank.image_hashes is None else _rows_as_text(bank.image_hashes)
        storage = contract.bank.storage
        self._same = _SAME_ROW[storage is None or storage.embeddings == "float32"]

    def nearest_other(self, embedding: Floats, sha256: str) -> str | None:
        """The label of the nearest row that is not the image's own; None if no row is.

        Args:
            embedding: `float32 [D]`, the image's.
            sha256: the hash of its picture.
        """
        cosines = self._embeddings @ (embedding / max(float(np.linalg.norm(embedding)), 1e-12))
        if self._hashes is not None:
            own = self._hashes == sha256
        elif cosines.max() >= self._same:
            own = np.arange(len(cosines)) == cosines.argmax()
        else:
            return None
        if not own.any() or own.all():
            return None
        return str(self._labels[np.where(own, -np.inf, cosines).argmax()])


def _rows_as_text(hashes: npt.NDArray[np.uint8]) -> npt.NDArray[np.object_]:
    return np.asarray([row.tobytes().hex() for row in hashes], object)


def load_folded(path: Path, device: Device = CPU) -> FoldedModel:
    """The folded model in ONNX Runtime, by default on the CPU, where figures are the same."""
    return FoldedModel.load(path, provider=device.provider)


def rows_of_model(path: Path, bank: Path | None = None) -> Bank:
    """The rows of a folded model, for `evaluate_retrieval`.

    Args:
        path: the folded model.
        bank: the file of its bank, which knows the hashes of its pictures.

    Raises:
        FoldcamError: a file cannot be read, or the bank is not the model's.
    """
    contract = read_contract(path)
    if bank is None:
        return bank_of(load_message(path), contract)
    given = Bank.load(bank)
    if given.row_labels() != [r.name for r in contract.labels for _ in range(r.count)]:
        raise FoldcamError(
            f"--bank {bank} has other rows than {path}: give the bank that it was folded with."
        )
    return given
