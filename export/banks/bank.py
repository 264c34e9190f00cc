"""The bank: rows (embedding, grad-weights, label) of the training images."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safetensors.numpy import save_file

from foldcam.export.banks.bank_arrays import (
    EMBEDDINGS,
    FORMAT,
    GRAD_BASIS,
    GRAD_INDEX,
    GRAD_ROWS,
    GRAD_WEIGHTS,
    HASH_BYTES,
    IMAGE_HASHES,
    MEAN_SUMMANDS,
    NAMES,
    VALUES,
    names_array,
    names_of,
    read_arrays,
)
from foldcam.export.banks.low_rank import factors
from foldcam.runtime.contract.bank.live_bank import bank_sha256
from foldcam.runtime.contract.schema import (
    Contract,
    GradWeightsRule,
    LabelRun,
    Origin,
    Outcome,
    SummandKind,
    Transform,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.documents import Finite, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, refuse_special
from foldcam.runtime.system.strict_json import parse_json
from foldcam.runtime.system.text import shorten


@dataclass(frozen=True)
class BankSource:
    """What a contract needs beside the rows themselves.

    Attributes:
        origin: network and data.
        layer: the feature map's name in the network.
        preprocessing: how the images became the network's input.
    """

    origin: Origin
    layer: str
    preprocessing: Preprocessing

    @staticmethod
    def of(contract: Contract) -> BankSource:
        """Where the bank inside a folded model comes from."""
        return BankSource(contract.origin, contract.layer, contract.preprocessing)

    def document(self) -> dict[str, Any]:
        """For the header of a bank's file."""
        return asdict(self)


def needed_source(source: BankSource | None, where: str) -> BankSource:
    """The source of a bank that must have one.

    Args:
        source: the source of the bank.
        where: the bank's file, for the message.
    """
    if source is None:
        raise FoldcamError(
            f"{where} does not say which layer and preprocessing it was made with: build it again "
            "with foldcam bank build."
        )
    return source


Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint8]

_SCHEMA_VERSION = 1
_COMPRESSIONS = re.compile(r"none|rank:[1-9][0-9]{0,8}|prototypes:[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class BankOutcome:
    """The continuous outcome of a bank's rows, in place of labels.

    Attributes:
        values: `float32 [N]`, on the scale on which the kernel works.
        tau: temperature of the kernel.
        transform: `none`, or `log` where `values` are logarithms.
    """

    values: Floats
    tau: float
    transform: Transform

    def in_units(self) -> npt.NDArray[np.float64]:
        """`float64 [N]`: the values in their own unit."""
        exact = self.values.astype(np.float64)
        with np.errstate(over="ignore"):  # of a bank that is about to be refused
            return np.exp(exact) if self.transform == "log" else exact

    def summary(self) -> Outcome:
        """For the contract."""
        values = self.in_units()
        low, high = float(values.min()), float(values.max())
        return Outcome(self.tau, self.transform, low, float(np.median(values)), high)


@dataclass(frozen=True)
class Bank:
    """Training embeddings with the grad-weights that a new image takes from them.

    Rows are sorted by label, or by value. Rows with the same grad-weights share one row of
    `grad_weights` behind `grad_index`: a linear head and all triplets give one
    row per class.

    Attributes:
        embeddings: `float32 [N, D]`, each row of L2 norm 1.
        grad_weights: `float32 [M, K]`, the rows `a`, so that `a . S_p` has the unit of
            `v . z`; where `rule` is `own`, the directions `v` themselves, `float32 [M, D]`.
        grad_index: `int32 [N]`, the row of `grad_weights` for each embedding.
        labels: runs of consecutive rows with one label; empty for a continuous outcome.
        objective: what the directions came from, e.g. `all-triplets`.
        channel_rule: `all` or `positive`.
        compression: `none`, or what was done to make the bank smaller.
        network_sha256: of the network that made it.
        outcome: values of the rows, where they have values in place of labels.
        source: network, data, layer and preprocessing; None where an older file or a
            hand-made bank does not say. No part of the hash.
        summands: what kind of sum over positions the grad-weights belong to, `none` where there
            is none; None in banks of before there was a choice, whose rows have no unit.
        rule: `transferred`, or `own` where the graph computes each image's grad-weights.
        mean_summands: `float32 [K', h, w]`, the mean of the summands over the training images,
            None where it is not known. No part of the hash: sums in another order differ in
            the last digit.
        image_hashes: `uint8 [N, 32]`, SHA-256 of each row's image file, by which an image
            is known again; None where rows are not images. No part of the hash.
        names: what each row's picture is called, its file's name relative to the data set's
            root (`anna/1.jpg`, `anna/1.jpg#10,20,64,128` of a crop), empty where that is not
            known; None where rows are not images, or an older foldcam wrote the file. No part
            of the hash.
    """

    embeddings: Floats
    grad_weights: Floats
    grad_index: Indices
    labels: tuple[LabelRun, ...]
    objective: str
    channel_rule: str = "all"
    compression: str = "none"
    network_sha256: str = ""
    outcome: BankOutcome | None = None
    source: BankSource | None = None
    image_hashes: Hashes | None = None
    summands: SummandKind | None = None
    rule: GradWeightsRule = "transferred"
    mean_summands: Floats | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or self.grad_weights.ndim != 2 or not self.embeddings.size:
            raise FoldcamError("A bank needs embeddings [N, D] and grad-weights [M, K], N >= 1.")
        rows = self.embeddings.shape[0]
        if self.grad_index.shape != (rows,):
            raise FoldcamError(
                f"The bank has {rows} embeddings and an index of {self.grad_index.shape}."
            )
        if self.grad_index.min() < 0 or self.grad_index.max() >= self.grad_weights.shape[0]:
            raise FoldcamError("The bank's index points outside its grad-weights.")
        if self.image_hashes is not None and self.image_hashes.shape != (rows, HASH_BYTES):
            raise FoldcamError(
                f"The bank has {rows} rows and image hashes of shape {self.image_hashes.shape}."
            )
        if self.names is not None and len(self.names) != rows:
            raise FoldcamError(f"The bank has {rows} rows and names for {len(self.names)}.")
        counted = sum(run.count for run in self.labels)
        arrays = [("embeddings", self.embeddings), ("grad-weights", self.grad_weights)]
        if self.outcome is None:
            if counted != rows:
                raise FoldcamError(f"The bank has {rows} rows and labels for {counted}.")
        else:
            if counted or self.outcome.values.shape != (rows,):
                raise FoldcamError(
                    f"The bank has {rows} rows, values of shape {self.outcome.values.shape} and "
                    f"labels for {counted}: it needs one value per row and no labels."
                )
            if not 0 < self.outcome.tau < np.inf:
                raise FoldcamError(f"The bank's tau is {self.outcome.tau}, not above zero.")
            arrays.append(("values", self.outcome.values))
        if self.mean_summands is not None:
            arrays.append(("mean summands", self.mean_summands))
        for name, array in arrays:
            if not np.isfinite(array).all():
                raise FoldcamError(f"The bank's {name} hold values that are not finite.")

    @property
    def rows(self) -> int:
        """Number of training images, N."""
        return int(self.embeddings.shape[0])

    @property
    def embedding_size(self) -> int:
        """D."""
        return int(self.embeddings.shape[1])

    @property
    def channels(self) -> int:
        """Numbers in a row of grad-weights: K, channels of the feature map, or D of directions."""
        return int(self.grad_weights.shape[1])

    def row_labels(self) -> list[str]:
        """The label of each row."""
        return [run.name for run in self.labels for _ in range(run.count)]

    def row_names(self) -> tuple[str, ...]:
        """The name of each row's picture, empty where it is not known."""
        return ("",) * self.rows if self.names is None else self.names

    def row_grad_weights(self) -> Floats:
        """`float32 [N, K]`: the grad-weights of each row."""
        return self.grad_weights[self.grad_index]

    def sha256(self) -> str:
        """Hash of arrays and labels."""
        arrays: list[npt.NDArray[Any]] = [self.embeddings, self.grad_weights, self.grad_index]
        further: list[str | bytes] = (
            [] if self.summands is None else [f"{self.summands} {self.rule};"]
        )
        if self.outcome is not None:
            further.append(f"{self.outcome.tau!r} {self.outcome.transform};")
            further.append(np.ascontiguousarray(self.outcome.values).tobytes())
        return bank_sha256(arrays, self.labels, *further)

    def save(self, path: Path) -> None:
        """Write the bank as safetensors.

        Grad-weights that were compressed to a low rank are written as their factors.

        Raises:
            FoldcamError: the file cannot be written.
        """
        header: dict[str, Any] = {
            "schema_version": _SCHEMA_VERSION,
            "labels": [[run.name, run.count] for run in self.labels],
            "objective": self.objective,
            "channel_rule": self.channel_rule,
            "compression": self.compression,
            "network_sha256": self.network_sha256,
        }
        if self.summands is not None:
            header["summands"], header["rule"] = self.summands, self.rule
        if self.source is not None:
            header["source"] = self.source.document()
        arrays: dict[str, npt.NDArray[Any]] = {
            EMBEDDINGS: np.ascontiguousarray(self.embeddings),
            GRAD_WEIGHTS: np.ascontiguousarray(self.grad_weights),
            GRAD_INDEX: np.ascontiguousarray(self.grad_index),
        }
        if self.compression.startswith("rank:"):
            factored = factors(self.grad_weights, int(self.compression.partition(":")[2]))
            del arrays[GRAD_WEIGHTS]
            arrays[GRAD_ROWS] = np.ascontiguousarray(factored.rows)
            arrays[GRAD_BASIS] = np.ascontiguousarray(factored.basis)
        if self.outcome is not None:
            header["outcome"] = {"tau": self.outcome.tau, "transform": self.outcome.transform}
            arrays[VALUES] = np.ascontiguousarray(self.outcome.values)
        if self.mean_summands is not None:
            arrays[MEAN_SUMMANDS] = np.ascontiguousarray(self.mean_summands)
        if self.image_hashes is not None:
            arrays[IMAGE_HASHES] = np.ascontiguousarray(self.image_hashes)
        if self.names is not None and any(self.names):
            arrays[NAMES] = names_array(self.names)
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, metadata={FORMAT: json.dumps(header, sort_keys=True)})

    @staticmethod
    def load(path: Path | str) -> Bank:
        """Read a bank.

        Raises:
            FoldcamError: the file is missing, damaged, or not a bank.
        """
        path = Path(path)
        refuse_special(path)
        return _assembled(path, *read_arrays(path))


class _Outcome(Struct, frozen=True):
    tau: Finite
    transform: Transform


class _Header(Struct, frozen=True):
    labels: tuple[LabelRun, ...]
    objective: str
    channel_rule: Literal["all", "positive"]
    compression: str
    network_sha256: str
    outcome: _Outcome | None = None
    source: BankSource | None = None
    summands: SummandKind | None = None
    rule: GradWeightsRule = "transferred"


def _assembled(path: Path, header: str, arrays: dict[str, npt.NDArray[Any]]) -> Bank:
    try:
        document = parse_json(header)
    except ValueError as error:
        raise FoldcamError(f"{path}: its header is not JSON ({error}).") from error
    where = f"{path}: header"
    if read_document(Versioned, document, where).schema_version != _SCHEMA_VERSION:
        raise FoldcamError(
            f"{where}: schema_version is not {_SCHEMA_VERSION}: build the bank again."
        )
    said = read_document(_Header, document, where, whole=("source.preprocessing",))
    outcome = None
    if said.outcome is not None:
        if VALUES not in arrays:
            raise FoldcamError(
                f"{where}: outcome is there and the values are missing: build the bank again."
            )
        outcome = BankOutcome(arrays[VALUES], said.outcome.tau, said.outcome.transform)
        if not np.isfinite(outcome.in_units()).all():
            raise FoldcamError(
                f"{where}: outcome has values that are no logarithms: build the bank again."
            )
    names = None
    if NAMES in arrays:
        names = names_of(path, arrays[NAMES], len(arrays[EMBEDDINGS]))
    return Bank(
        embeddings=arrays[EMBEDDINGS],
        grad_weights=arrays[GRAD_WEIGHTS],
        grad_index=arrays[GRAD_INDEX],
        labels=said.labels,
        objective=said.objective,
        channel_rule=said.channel_rule,
        compression=_compression(said.compression, where, *arrays[GRAD_WEIGHTS].shape),
        network_sha256=said.network_sha256,
        outcome=outcome,
        source=said.source,
        image_hashes=arrays.get(IMAGE_HASHES),
        names=names,
        summands=said.summands,
        rule=said.rule,
        mean_summands=arrays.get(MEAN_SUMMANDS),
    )


def _compression(name: str, where: str, rows: int, channels: int) -> str:
    kind, _, size = name.partition(":")
    if not _COMPRESSIONS.fullmatch(name) or (kind == "rank" and int(size) >= min(rows, channels)):
        raise FoldcamError(
            f"{where}: compression is {shorten(name, 40)!r}, which is no compression of {rows} rows"
            f" of {channels} grad-weights: build the bank again."
        )
    return name


def label_runs(sorted_labels: list[str]) -> tuple[LabelRun, ...]:
    """Runs of equal consecutive labels."""
    runs: list[LabelRun] = []
    for label in sorted_labels:
        if runs and runs[-1].name == label:
            runs[-1] = LabelRun(label, runs[-1].count + 1)
        else:
            runs.append(LabelRun(label, 1))
    return tuple(runs)


ALIKE = 0.999
"""Cosine above which two embeddings of different pictures are hardly different."""

_COMPARED = 512


def own_row_cosine(contract: Contract) -> float:
    """Cosine from which a row of a model's bank is the image itself.

    A bank that is stored in smaller numbers is less exact.
    """
    storage = contract.bank.storage
    return 0.99999 if storage is None or storage.embeddings == "float32" else 0.999


def least_cosine(bank: Bank) -> float:
    """The least cosine between two rows; of a large bank, between some, evenly spread."""
    rows = bank.embeddings[:: max(1, bank.rows // _COMPARED)][:_COMPARED].astype(np.float64)
    return float((rows @ rows.T).min())


def alike_notes(bank: Bank) -> list[str]:
    """A warning where no two rows can be distinguished; else nothing."""
    if bank.rows < 2 or (least := least_cosine(bank)) <= ALIKE:
        return []
    return [
        "WARNING: all embeddings of the bank are nearly the same (the least cosine between two is "
        f"{least:.5f}), so that labels are found by chance. Likely causes: --mean and "
        "--std that are not the network's (a network that normalises its images itself needs "
        "other ones: see docs/networks.md), weights that were not loaded (--weights), or an output "
        "that is not the embedding (--output)."
    ]
