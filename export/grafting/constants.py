"""Bank -> its constants in the graph: lists, smaller numbers, compressed grad-weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.low_rank import factors, row_scales
from foldcam.export.grafting.in_graph import (
    BANK_CENTROIDS,
    BANK_CODE_SCALES,
    BANK_CODE_STEPS,
    BANK_EMBEDDINGS,
    BANK_GRAD_BASIS,
    BANK_GRAD_INDEX,
    BANK_GRAD_SCALES,
    BANK_GRAD_WEIGHTS,
    BANK_LIST_ROWS,
    BANK_MEAN_SUMMANDS,
    BANK_VALUES,
    StoredBank,
    sha256_of,
)
from foldcam.export.grafting.lists import balanced_lists
from foldcam.export.grafting.options import (
    ROWS_PER_LIST,
    StorageOptions,
    precision_of_embeddings,
    precision_of_grad_weights,
    searches_lists,
)
from foldcam.export.grafting.packed_codes import pack
from foldcam.export.grafting.prototypes import with_prototypes
from foldcam.runtime.contract.bank_storage import BankStorage

Array = npt.NDArray[Any]

_LIST_ROWS = ROWS_PER_LIST
_CENTROIDS_PER_ROOT = 3


def store(bank: Bank, options: StorageOptions | None = None) -> StoredBank:
    """Choose how a bank is stored and searched, and make its constants."""
    options = options or StorageOptions()
    continuous = bank.outcome is not None
    arrays: dict[str, Array] = {}
    lists = searches_lists(options.search, bank.rows, bank.embedding_size, continuous)
    precision = precision_of_embeddings(options.precision, lists, bank.embeddings.size)
    shape = (0, 0)
    if lists:
        shape = _store_lists(arrays, bank, precision == "int8", options.seed)
        arrays[BANK_EMBEDDINGS] = _in_numbers(arrays[BANK_EMBEDDINGS], precision)
    else:
        arrays[BANK_EMBEDDINGS] = _in_numbers(bank.embeddings.T, precision)
    compression = options.compression
    rank = compression.size if compression.kind == "rank" else 0
    if compression.kind == "prototypes":
        bank = with_prototypes(bank, compression.size, options.seed)
    table = bank.grad_weights
    if rank:
        factored = factors(bank.grad_weights, rank)
        table, arrays[BANK_GRAD_BASIS] = factored.rows, factored.basis
    scales = row_scales(table)
    if (scales != 1).any():
        table, arrays[BANK_GRAD_SCALES] = table / scales[:, None], scales
    if bank.mean_summands is not None:
        arrays[BANK_MEAN_SUMMANDS] = bank.mean_summands.reshape(len(bank.mean_summands), -1)
    numbers = precision_of_grad_weights(options.precision, table.size)
    arrays[BANK_GRAD_WEIGHTS] = _in_numbers(table, numbers)
    if not np.array_equal(bank.grad_index, np.arange(bank.grad_weights.shape[0])):
        arrays[BANK_GRAD_INDEX] = bank.grad_index
    if bank.outcome is not None:
        arrays[BANK_VALUES] = bank.outcome.values[:, None]
    return StoredBank(
        arrays,
        BankStorage(
            search="lists" if lists else "exhaustive",
            lists=shape[0],
            list_rows=shape[1],
            probes=min(options.search.probes, shape[0]),
            embeddings=precision,
            grad_weights=numbers,
            rank=rank,
            sha256=sha256_of(arrays),
        ),
    )


def _store_lists(arrays: dict[str, Array], bank: Bank, codes: bool, seed: int) -> tuple[int, int]:
    """Add embeddings in lists; returns `(L, C)`."""
    per_list = max(_LIST_ROWS, int(np.sqrt(bank.rows)) // _CENTROIDS_PER_ROOT)
    lists = balanced_lists(bank.embeddings, -(-bank.rows // per_list), seed)
    # A list's first row in the empty places: it wins or loses with the row itself.
    members = np.where(lists.members < 0, lists.members[:, :1], lists.members)
    placed: Array = bank.embeddings[members]
    if codes:
        packed = pack(placed - lists.centroids[:, None])
        placed = packed.words
        arrays[BANK_CODE_SCALES] = packed.scales
        arrays[BANK_CODE_STEPS] = packed.steps
    arrays[BANK_EMBEDDINGS] = placed
    arrays[BANK_CENTROIDS] = np.ascontiguousarray(lists.centroids.T)
    arrays[BANK_LIST_ROWS] = members
    return members.shape[0], members.shape[1]


def _in_numbers(array: Array, precision: str) -> Array:
    return np.ascontiguousarray(array.astype(np.float16) if precision == "float16" else array)
