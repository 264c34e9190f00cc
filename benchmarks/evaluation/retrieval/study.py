"""Does the nearest bank row have the right label? A folded model on labelled images.

An image that is in the bank finds itself, which says nothing: its own rows are left out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.explanation.data import Parts
from foldcam.export.banks.bank import ALIKE, Bank, least_cosine, own_row_cosine
from foldcam.export.banks.pictures import RowPictures
from foldcam.export.banks.retrieval import QueryMeasures, query_measures
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.answers import model_answers
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.frame import frameless
from foldcam.export.grafting.in_graph import bank_of
from foldcam.export.models.spec import LoadedModel
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True, eq=False)
class Subject:
    """A folded model that is ready to be asked."""

    model: FoldedModel  # the folded model
    bank: Bank  # its rows; with names and hashes where they are known
    pictures: RowPictures  # of the rows


@contextmanager
def folded_subject(
    path: Path, bank: Path | None, dataset: Dataset | None, device: Device = CPU
) -> Iterator[Subject]:
    """A folded model, by default on the CPU, where figures are the same.

    Args:
        bank: the file of its bank, which knows names and hashes of its pictures; or None.
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
    progress: Progress,
) -> Iterator[Subject]:
    """A network, folded with the training images into a temporary file.

    Args:
        layer: the feature map's name, None to find it.
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
        bank: the file of its bank, which knows the hashes of its pictures.
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


Floats = npt.NDArray[np.float32]


class OwnRows:
    """Finds the rows of a bank that an image is itself.

    They are known by the hash of their picture, where the bank has it, and by an embedding that
    is the same: that of a twin, the same pixels in another file. In a bank whose rows are all
    alike, an embedding says nothing, and only the nearest one is taken for the image's own.
    """

    def __init__(self, bank: Bank, contract: Contract) -> None:
        self._hashes = None
        if bank.image_hashes is not None:
            self._hashes = np.asarray([row.tobytes().hex() for row in bank.image_hashes], object)
        self._same = own_row_cosine(contract)
        self._alike = least_cosine(bank) > ALIKE

    def of(self, cosines: Floats, sha256: str) -> npt.NDArray[np.bool_]:
        """Which rows the image is.

        Args:
            cosines: `float32 [N]`, of its embedding to every row's.

        Returns:
            `bool [N]`.
        """
        own = np.zeros(len(cosines), bool)
        if self._hashes is not None:
            own |= np.asarray(self._hashes == sha256, bool)
        if not self._alike:
            own |= cosines >= self._same
        elif self._hashes is None and cosines.max() >= self._same:
            own[cosines.argmax()] = True
        return own


@dataclass(frozen=True)
class Query:
    """One image that was looked for."""

    sample: Sample  # the image
    answer: str  # the label of the nearest row that is not the image itself
    match: int  # that row
    similarity: float  # the cosine to it
    measures: QueryMeasures  # rank of the first right row and so on
    in_bank: bool  # whether rows of the bank are the image itself; they were left out

    @property
    def right(self) -> bool:
        """Whether the answer is the image's label."""
        return self.answer == self.sample.label


@dataclass(frozen=True)
class Retrieval:
    """What a folded model answered."""

    # readable images with another row of their label to find, as they were given
    queries: tuple[Query, ...]
    unknown_labels: int  # images left out because the bank has no row of their label
    lone: int  # images left out because the bank's only rows of their label are themselves
    # images that could not be read or have no answer, with the reason
    skipped: tuple[tuple[str, str], ...]
    # what the reader of the figures should know first, one sentence each
    notes: tuple[str, ...] = ()

    @property
    def own_images(self) -> int:
        """How many images are in the bank themselves."""
        return sum(query.in_bank for query in self.queries)


def evaluate_retrieval(
    model: FoldedModel,
    dataset: Dataset,
    bank: Bank,
    progress: Progress | None = None,
) -> Retrieval:
    """Run the folded model over labelled images, and rank the bank's rows for each.

    Args:
        bank: the model's rows. Where their hashes are known, an image of the bank is known by them,
            too, and not only by an embedding that is the same.
    """
    if bank.outcome is not None:
        raise FoldcamError("The bank has values and no labels: there is no right label to find.")
    known = {run.name for run in bank.labels}
    samples = [sample for sample in dataset.samples if sample.label in known]
    if not samples:
        raise FoldcamError(
            f"The bank has no row of any label in {dataset.name}: is it the data set that the "
            "model was exported with?"
        )
    ranking = _Ranking(bank, model.contract)
    queries: list[Query] = []
    skipped: list[tuple[str, str]] = []
    lone = 0
    say = None if progress is None else partial(progress, "retrieval")
    for sample, picture, result in model_answers(model, samples, skipped, say):
        if not np.isfinite(result.embedding).all():
            skipped.append((sample.name, "the network gives numbers that are not finite"))
            continue
        query = ranking.query(sample, result, picture.sha256)
        if query is None:
            lone += 1
        else:
            queries.append(query)
    if not queries:
        if lone:
            raise FoldcamError(
                "All images are the bank's only rows of their labels: there is nothing else to "
                "find; give images that are not in the bank."
            )
        raise FoldcamError(f"None of the images could be read; the first: {skipped[0][1]}")
    found = Retrieval(tuple(queries), len(dataset.samples) - len(samples), lone, tuple(skipped))
    return replace(found, notes=tuple(_notes(model.contract, dataset, found)))


class _Ranking:
    """Sorts a bank's rows for a query, without its own."""

    def __init__(self, bank: Bank, contract: Contract) -> None:
        self._embeddings = bank.embeddings
        self._labels = np.asarray(bank.row_labels(), object)
        self._own = OwnRows(bank, contract)
        storage = contract.bank.storage
        self._searched = storage is None or storage.search == "exhaustive"

    def query(self, sample: Sample, result: Result, sha256: str) -> Query | None:
        """None where no other row has the image's label."""
        norm = max(float(np.linalg.norm(result.embedding)), 1e-12)
        cosines = self._embeddings @ (result.embedding / norm)
        order = np.argsort(-cosines, kind="stable")
        if not self._searched:
            # What the graph's search finds comes first, as the model answers.
            first = np.asarray(result.neighbors, np.int64)
            order = np.concatenate([first, order[~np.isin(order, first)]])
        own = self._own.of(cosines, sha256)
        order = order[~own[order]]
        right: npt.NDArray[np.bool_] = np.asarray(self._labels[order] == sample.label, bool)
        if not right.any():
            return None
        match = int(order[0])
        return Query(
            sample,
            str(self._labels[match]),
            match,
            float(np.clip(cosines[match], -1, 1)),
            query_measures(right),
            bool(own.any()),
        )


def _notes(contract: Contract, dataset: Dataset, found: Retrieval) -> list[str]:
    notes = []
    if own := found.own_images:
        notes.append(
            f"{own} of the {len(found.queries)} images are in the bank: each was compared with the "
            "other rows alone."
        )
    else:
        origin = contract.origin
        if origin.data == dataset.name and origin.split in (dataset.split, "all"):
            notes.append(
                f"The bank was built from {origin.data}, split {origin.split}, too, and none of "
                "the images was known again in it: if they are in the bank, they find themselves "
                "and the figures say nothing; give the bank's own file with --bank."
            )
    if found.lone:
        notes.append(
            f"{found.lone} images were left out: the bank has no other row of their label."
        )
    return notes
