"""Making a gallery: the training images run through the folded model that was made from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.pictures import hashed
from foldcam.export.banks.rows import file_hashes
from foldcam.export.banks.steps import data_hash, values_of
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.reading import open_picture
from foldcam.export.grafting.frame import frameless
from foldcam.runtime.contract.gallery import GalleryWriter, gallery_path
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

Progress = Callable[[int, int], None]
Pair = tuple[Sample, str]
"""An image and its hash, see `export.datasets.reading.picture_hash`."""


@dataclass(frozen=True)
class GalleryReport:
    """A gallery that was made.

    Attributes:
        path: its file.
        rows: rows of the bank.
        missing: of how many of them the data set has no picture, or none that can be read.
        others: rows whose own picture is nearest to another row: the same picture twice, or a
            compressed bank. Their maps are made with that row's grad-weights.
    """

    path: Path
    rows: int
    missing: int
    others: int

    def notes(self) -> list[str]:
        """What the user should know, one sentence each."""
        notes = []
        if self.missing:
            notes.append(
                f"{self.missing} of {self.rows} rows have no picture in the gallery: the data set "
                "does not hold it, or it cannot be read."
            )
        if self.others:
            notes.append(
                f"{self.others} of {self.rows} training images are nearest to another row than "
                "their own (the same picture twice, or a compressed bank): their maps are of that "
                "comparison."
            )
        return notes


def make_gallery(
    model: Path,
    dataset: Dataset,
    out: Path | None = None,
    *,
    bank: Bank | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> GalleryReport:
    """Write a thumbnail and the model's own map of each training image, in the bank's order.

    Args:
        model: the folded model.
        dataset: its training images.
        out: the gallery's file; None is the model's name with `.gallery`.
        bank: of the model. It knows each row's image file, so that the data set may have other
            images as well, or lack some. Without it the data set must be the bank's own.
        batch_size: images per pass.
        progress: called after each batch with rows done and rows in all.

    Raises:
        FoldcamError: a data set or a bank that is not the model's, a bank that is an input, rows
            that are no images, or a file that cannot be written.
    """
    contract = read_contract(model)
    if contract.bank_input is not None:
        raise FoldcamError(
            f"{model} takes its bank as an input, which may change, and a gallery shows the rows "
            "of one bank: fold it with --no-bank-input."
        )
    out = out or gallery_path(model)
    rows = _rows_of_bank(bank, contract, dataset) if bank else _rows_of_data(contract, dataset)
    missing = others = 0
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        writer = GalleryWriter(file, contract)
        with frameless(model) as taken, FoldedModel.load(taken) as folded:
            for row, sample, image, result in _answers(folded, rows, batch_size, progress):
                missing += image is None
                others += result is not None and result.valid and int(result.neighbors[0]) != row
                signed = None if result is None else _signed(result)
                writer.add(image, signed, "" if sample is None else sample.row_name)
        if missing == len(rows):
            raise FoldcamError(f"None of the pictures of {dataset.name} could be read.")
        writer.finish()
    return GalleryReport(out, len(rows), missing, others)


def _rows_of_bank(bank: Bank, contract: Contract, dataset: Dataset) -> list[Sample | None]:
    """The image of each row, known by its hash and its label; None where the data has it not."""
    if bank.sha256() != contract.bank.sha256:
        raise FoldcamError(
            "The bank is not the one that was folded into the model: name that bank, or fold this "
            "one first."
        )
    hashes = file_hashes(bank, "a gallery cannot be made of it")
    labels = bank.row_labels() or [""] * bank.rows
    labelled = bool(bank.labels)
    known = {
        (digest, sample.label if labelled else ""): sample
        for sample, digest in hashed(dataset.samples)
    }
    rows = [known.get(pair) for pair in zip(hashes, labels, strict=True)]
    if not any(rows):
        raise FoldcamError(
            f"{dataset.name} has no image of the model's bank: name the data set that the bank "
            "was built from."
        )
    return list(rows)


def _rows_of_data(contract: Contract, dataset: Dataset) -> list[Sample | None]:
    """The data set in the bank's order, which is right if it has the hash that the model names."""
    samples = list(dataset.samples)
    if contract.outcome is not None:
        samples.sort(key=lambda sample: values_of([sample])[0])
    else:
        samples.sort(key=lambda sample: sample.label)
    for pairs in _as_built(list(hashed(samples))):
        if len(pairs) == contract.bank.rows:
            digests, labels = [each for _, each in pairs], [each.label for each, _ in pairs]
            if data_hash(digests, labels) == contract.origin.data_sha256:
                return [sample for sample, _ in pairs]
    raise FoldcamError(
        f"{dataset.name} ({dataset.split}) is not what the model's bank was built from "
        f"({contract.origin.data}, {contract.origin.split}): name that data set and --split; or, "
        "of a bank that was changed, give the bank itself with --bank."
    )


def _as_built(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """What a bank may have been built from: all, or without what was skipped or dropped then."""

    def without_singletons(pairs: list[Pair]) -> list[Pair]:
        count = Counter(sample.label for sample, _ in pairs)
        return [pair for pair in pairs if count[pair[0].label] > 1]

    yield pairs
    yield without_singletons(pairs)
    # To decode takes longer than to hash.
    readable = [pair for pair in pairs if _decoded(pair[0]) is not None]
    yield readable
    yield without_singletons(readable)


def _decoded(sample: Sample) -> Image | None:
    try:
        return open_picture(sample).decoded().image
    except FoldcamError:
        return None


def _answers(
    model: FoldedModel, rows: Sequence[Sample | None], batch_size: int, progress: Progress | None
) -> Iterator[tuple[int, Sample | None, Image | None, Result | None]]:
    """Every row in order, with its picture and what the model says of it."""
    for begin in range(0, len(rows), batch_size):
        part = rows[begin : begin + batch_size]
        images = [None if sample is None else _decoded(sample) for sample in part]
        results = iter(model.run_batch([image for image in images if image is not None]))
        for at, (sample, image) in enumerate(zip(part, images, strict=True)):
            yield begin + at, sample, image, None if image is None else next(results)
        if progress is not None:
            progress(begin + len(part), len(rows))


def _signed(result: Result) -> npt.NDArray[np.float32]:
    if result.contribution is not None:
        return result.contribution
    return result.heatmap if result.heatmap_lower is None else result.heatmap - result.heatmap_lower
