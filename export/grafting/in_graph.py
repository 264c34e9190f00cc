"""A bank as the graph holds it: which arrays, in which numbers, and what a search finds in them.

The graph is built from these arrays, and a folded model's arrays are read back into the same
class, whose methods say in numpy what the graph has to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.grafting.packed_codes import PackedRows, unpack, words_per_row
from foldcam.export.onnx_graphs.writing import PREFIX
from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import BANK_EMBEDDING, METADATA_KEY, Contract
from foldcam.runtime.system.errors import FoldcamError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BANK_EMBEDDINGS = PREFIX + "bank_embeddings"
"""`[D, N]`, or in lists `[L, C, D]`, or less their centroids and packed, `int32 [L, C, W]`."""
BANK_CENTROIDS = PREFIX + "bank_centroids"
"""`float32 [D, L]`."""
BANK_LIST_ROWS = PREFIX + "bank_list_rows"
"""`int32 [L, C]`: the bank row in each place; places without one repeat their list's first row."""
BANK_CODE_SCALES = PREFIX + "bank_code_scales"
"""`float32 [L, C]`: of each row's codes."""
BANK_CODE_STEPS = PREFIX + "bank_code_steps"
"""`float32 [D]`: of each dimension's codes."""
BANK_GRAD_WEIGHTS = PREFIX + "bank_grad_weights"
"""`[M, K]`, or `[M, r]` beside a basis."""
BANK_GRAD_BASIS = PREFIX + "bank_grad_basis"
"""`float32 [r, K]`."""
BANK_GRAD_INDEX = PREFIX + "bank_grad_index"
"""`int32 [N]`; absent where row n has row n."""
BANK_GRAD_SCALES = PREFIX + "bank_grad_scales"
"""`float32 [M]`: by which each row of grad-weights is to be multiplied; absent where all are 1."""
BANK_MEAN_SUMMANDS = PREFIX + "bank_mean_summands"
"""`float32 [K', h * w]`: the mean over the training images; absent without a baseline."""
BANK_VALUES = PREFIX + "bank_values"
"""`float32 [N, 1]`."""
_NAMES = (
    BANK_EMBEDDINGS, BANK_CENTROIDS, BANK_LIST_ROWS, BANK_CODE_SCALES, BANK_CODE_STEPS,
    BANK_GRAD_WEIGHTS, BANK_GRAD_BASIS, BANK_GRAD_INDEX, BANK_GRAD_SCALES, BANK_MEAN_SUMMANDS,
    BANK_VALUES,
)  # fmt: skip


@dataclass(frozen=True)
class StoredBank:
    """The bank's constants of a graph.

    Attributes:
        arrays: name -> constant, under the names above.
        storage: how they are to be read.
    """

    arrays: Mapping[str, Array]
    storage: BankStorage

    @property
    def plain(self) -> bool:
        """Whether it is float32 rows, all searched: what a file without `bank.storage` holds."""
        storage = self.storage
        return (storage.search, storage.embeddings, storage.grad_weights, storage.rank) == (
            "exhaustive",
            "float32",
            "float32",
            0,
        )

    @property
    def list_sizes(self) -> Integers:
        """`int64 [L]`: rows in each list."""
        return np.asarray((~self.padding()).sum(axis=1), np.int64)

    def padding(self) -> npt.NDArray[np.bool_]:
        """`bool [L, C]`: places of the lists without a row."""
        rows = self.arrays[BANK_LIST_ROWS]
        padding = np.asarray(rows == rows[:, :1])
        padding[:, 0] = False
        return padding

    def most_neighbors(self) -> int:
        """The neighbors that every search finds."""
        if self.storage.search == "exhaustive":
            return int(self.arrays[BANK_EMBEDDINGS].shape[1])
        return int(np.sort(self.list_sizes)[: self.storage.probes].sum())

    def embeddings(self) -> Floats:
        """`float32 [N, D]`: the rows as they are compared."""
        if self.storage.search == "exhaustive":
            return np.ascontiguousarray(self.arrays[BANK_EMBEDDINGS].T.astype(np.float32))
        placed = self._placed_embeddings
        real = ~self.padding()
        rows = self.arrays[BANK_LIST_ROWS][real]
        found = np.zeros((int(rows.max()) + 1, placed.shape[2]), np.float32)
        found[rows] = placed[real]
        return found

    def grad_weights(self) -> Floats:
        """`float32 [M, K]`."""
        table: Floats = self.arrays[BANK_GRAD_WEIGHTS].astype(np.float32)
        if BANK_GRAD_SCALES in self.arrays:
            table = table * self.arrays[BANK_GRAD_SCALES][:, None]
        return table @ self.arrays[BANK_GRAD_BASIS] if self.storage.rank else table

    def grad_index(self) -> Integers:
        """`int64 [N]`: the row of `grad_weights` for each bank row."""
        index = self.arrays.get(BANK_GRAD_INDEX)
        count = self.arrays[BANK_GRAD_WEIGHTS].shape[0]
        return np.arange(count) if index is None else index.astype(np.int64)

    def nearest(self, unit: Floats, found: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """What the graph's search finds.

        Args:
            unit: `float32 [Q, D]`, queries of norm 1.
            found: neighbors, at most `most_neighbors`.

        Returns:
            Rows `int32 [Q, found]`, nearest first, and their similarities `float32`.
        """
        if self.storage.search == "exhaustive":
            to_all = unit @ self.arrays[BANK_EMBEDDINGS].astype(np.float32)
            order = np.argsort(-to_all, axis=1, kind="stable")[:, :found]
            return order.astype(np.int32), np.take_along_axis(to_all, order, 1)
        placed, real = self._placed_embeddings, ~self.padding()
        near = np.argsort(-(unit @ self.arrays[BANK_CENTROIDS]), axis=1, kind="stable")
        probed = near[:, : self.storage.probes]
        rows = np.empty((len(unit), found), np.int32)
        similarity = np.empty((len(unit), found), np.float32)
        for query, lists in enumerate(probed):
            scores = np.where(real[lists], placed[lists] @ unit[query], -np.inf).ravel()
            order = np.argsort(-scores, kind="stable")[:found]
            rows[query] = self.arrays[BANK_LIST_ROWS][lists].ravel()[order]
            similarity[query] = scores[order]
        return rows, similarity

    @cached_property
    def _placed_embeddings(self) -> Floats:
        """`float32 [L, C, D]`."""
        stored = self.arrays[BANK_EMBEDDINGS]
        if self.storage.embeddings != "int8":
            return stored.astype(np.float32)
        packed = PackedRows(stored, self.arrays[BANK_CODE_SCALES], self.arrays[BANK_CODE_STEPS])
        placed: Floats = self.arrays[BANK_CENTROIDS].T[:, None] + unpack(packed)
        return placed


def stored_bank_of(model: onnx.ModelProto, contract: Contract) -> StoredBank:
    """The bank's constants of a folded model."""
    if contract.bank_input is not None and any(
        value.name == BANK_EMBEDDING for value in model.graph.input
    ):
        raise FoldcamError(
            "The bank is an input of this model and no part of its graph: fold it in first, with "
            "foldcam fold MODEL.onnx --bank MODEL.bank --no-bank-input."
        )
    arrays: dict[str, Array] = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in _NAMES
    }
    storage = contract.bank.storage or BankStorage(
        "exhaustive", 0, 0, 0, "float32", "float32", 0, sha256_of(arrays)
    )
    needed = {BANK_GRAD_WEIGHTS}
    if contract.scores is None:
        needed.add(BANK_EMBEDDINGS)
    if contract.outcome is not None:
        needed.add(BANK_VALUES)
    if storage.search == "lists":
        needed |= {BANK_CENTROIDS, BANK_LIST_ROWS}
    if storage.embeddings == "int8":
        needed |= {BANK_CODE_SCALES, BANK_CODE_STEPS}
    if storage.rank:
        needed.add(BANK_GRAD_BASIS)
    if contract.explanation is not None and contract.explanation.baseline == "mean":
        needed.add(BANK_MEAN_SUMMANDS)
    if not needed <= set(arrays):
        raise FoldcamError("The folded model's bank is missing from its graph.")
    if not _shapes_agree(arrays, storage, contract):
        raise FoldcamError(
            "The bank in the folded model's graph has other shapes than its metadata describe: "
            "export it again."
        )
    if storage.search == "lists":
        held = np.unique(arrays[BANK_LIST_ROWS])
        if not np.array_equal(held, np.arange(contract.bank.rows)):
            raise FoldcamError(
                f"The lists in the folded model's graph do not hold the {contract.bank.rows} rows "
                "that its metadata describe: export it again."
            )
    return StoredBank(arrays, storage)


def contract_of(model: onnx.ModelProto) -> Contract:
    """The contract of a folded model in memory."""
    return parse_contract(_entry(model).value, "the folded model")


def write_contract(model: onnx.ModelProto, contract: Contract) -> None:
    """Put a contract into a folded model in memory, in the place of the one that it has."""
    _entry(model).value = contract.to_json()


def _entry(model: onnx.ModelProto) -> Any:
    return next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)


def bank_of(model: onnx.ModelProto, contract: Contract) -> Bank:
    """The bank inside a folded model, as its search and its heatmaps see it."""
    stored = stored_bank_of(model, contract)
    outcome, explained = None, contract.explanation
    mean = stored.arrays.get(BANK_MEAN_SUMMANDS)
    if contract.outcome is not None:
        outcome = BankOutcome(
            stored.arrays[BANK_VALUES][:, 0], contract.outcome.tau, contract.outcome.transform
        )
    return Bank(
        # A classifier's scores are compared with nothing.
        embeddings=stored.embeddings()
        if contract.scores is None
        else np.ones((contract.bank.rows, 1), np.float32),
        grad_weights=stored.grad_weights(),
        grad_index=stored.grad_index().astype(np.int32),
        labels=contract.labels,
        objective=contract.bank.objective,
        channel_rule=contract.bank.channel_rule,
        compression=contract.bank.compression,
        network_sha256=contract.origin.network_sha256,
        outcome=outcome,
        summands=None if explained is None else explained.summands,
        rule="transferred" if explained is None else explained.grad_weights,
        mean_summands=None if mean is None else mean.reshape(contract.feature_map),
    )


def is_intact(model: onnx.ModelProto, contract: Contract) -> bool:
    """Whether the bank in the graph is the one that the metadata describe."""
    if contract.bank.storage is None:
        return bank_of(model, contract).sha256() == contract.bank.sha256
    return sha256_of(stored_bank_of(model, contract).arrays) == contract.bank.storage.sha256


def sha256_of(arrays: Mapping[str, Array]) -> str:
    """Hash of constants and their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _shapes_agree(arrays: Mapping[str, Array], storage: BankStorage, contract: Contract) -> bool:
    bank = contract.bank
    size, places = bank.embedding_size, (storage.lists, storage.list_rows)
    expected: dict[str, tuple[int, ...]] = {
        BANK_GRAD_WEIGHTS: (bank.grad_weight_rows, storage.rank or bank.channels)
    }
    if contract.scores is None:
        expected[BANK_EMBEDDINGS] = (size, bank.rows)
    if storage.search == "lists":
        width = words_per_row(size) if storage.embeddings == "int8" else size
        expected[BANK_EMBEDDINGS] = (*places, width)
        expected |= {BANK_CENTROIDS: (size, storage.lists), BANK_LIST_ROWS: places}
    if storage.embeddings == "int8":
        expected |= {BANK_CODE_SCALES: places, BANK_CODE_STEPS: (size,)}
    if storage.rank:
        expected[BANK_GRAD_BASIS] = (storage.rank, bank.channels)
    if BANK_GRAD_SCALES in arrays:
        expected[BANK_GRAD_SCALES] = (bank.grad_weight_rows,)
    if BANK_MEAN_SUMMANDS in arrays:
        channels, height, width = contract.feature_map
        expected[BANK_MEAN_SUMMANDS] = (channels, height * width)
    if contract.outcome is not None:
        expected[BANK_VALUES] = (bank.rows, 1)
    return all(arrays[name].shape == shape for name, shape in expected.items())
