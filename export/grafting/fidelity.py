"""What a smaller bank costs: the stored rows against the exact ones, asked the same questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.in_graph import StoredBank
from foldcam.runtime.measurement.comparison.figures import cosines

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_MOST_QUERIES = 2000
_BLOCK = 128


@dataclass(frozen=True)
class Fidelity:
    """Exhaustive search of float32 rows against what the graph does.

    Attributes:
        queries: embeddings that were looked up.
        same_row: share for which both find the same row.
        same_label: share for which both find a row of the same label; None for a continuous
            outcome.
        similarity_lost_mean: cosine of the exact nearest row less that of the row found.
        similarity_error_worst: greatest difference between the reported similarity and the
            exact one of the same row.
        grad_weights_cosine_mean, grad_weights_cosine_worst: between the grad-weights of the
            exact nearest row and those that the graph takes.
    """

    queries: int
    same_row: float
    same_label: float | None
    similarity_lost_mean: float
    similarity_error_worst: float
    grad_weights_cosine_mean: float
    grad_weights_cosine_worst: float

    def sentence(self) -> str:
        """For a person."""
        label = "" if self.same_label is None else f"same label {self.same_label:.1%}, "
        return (
            f"same row {self.same_row:.1%}, {label}grad-weights cosine "
            f"{self.grad_weights_cosine_mean:.4f} mean, {self.grad_weights_cosine_worst:.4f} worst"
        )


def measure_fidelity(bank: Bank, stored: StoredBank, queries: Floats | None = None) -> Fidelity:
    """Look the same embeddings up in both.

    Args:
        stored: the same rows as the graph holds them.
        queries: `float32 [Q, D]` of norm 1, best of images that are not in the bank. Without
            them at most 2000 of the bank's own rows are asked for their nearest other row.
    """
    own = None
    if queries is None:
        own = np.arange(0, bank.rows, -(-bank.rows // _MOST_QUERIES), dtype=np.int64)
        queries = bank.embeddings[own]
    exact = _exact(bank, queries, own)
    found, reported = _found(stored, queries, own)
    between = np.einsum("qd,qd->q", queries, bank.embeddings[found])
    best = np.einsum("qd,qd->q", queries, bank.embeddings[exact])
    labels = np.repeat(np.arange(len(bank.labels)), [run.count for run in bank.labels])
    between_weights = _cosines(
        bank.grad_weights,
        bank.grad_index[exact].astype(np.int64),
        stored.grad_weights(),
        stored.grad_index()[found],
    )
    return Fidelity(
        queries=len(queries),
        same_row=float(np.mean(exact == found)),
        same_label=float(np.mean(labels[exact] == labels[found])) if bank.labels else None,
        similarity_lost_mean=float(np.mean(best - between)),
        similarity_error_worst=float(np.abs(reported - between).max()),
        grad_weights_cosine_mean=float(between_weights.mean()),
        grad_weights_cosine_worst=float(between_weights.min()),
    )


def _exact(bank: Bank, queries: Floats, own: Integers | None) -> Integers:
    rows = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        similarity = queries[start : start + _BLOCK] @ bank.embeddings.T
        if own is not None and bank.rows > 1:
            block = own[start : start + _BLOCK]
            similarity[np.arange(len(block)), block] = -np.inf
        rows[start : start + _BLOCK] = similarity.argmax(axis=1)
    return rows


def _found(stored: StoredBank, queries: Floats, own: Integers | None) -> tuple[Integers, Floats]:
    """Rows and reported similarities; of its own row's query the second, where it is the first."""
    count = 1 if own is None else min(2, stored.most_neighbors())
    rows = np.empty(len(queries), np.int64)
    similarity = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        found, reported = stored.nearest(queries[block], count)
        itself = np.zeros(len(found), np.int64)
        if own is not None and count > 1:
            itself = (found[:, 0] == own[block]).astype(np.int64)
        picked = np.arange(len(found)), itself
        rows[block], similarity[block] = found[picked], reported[picked]
    return rows, similarity


def _cosines(
    exact: Floats, exact_rows: Integers, stored: Floats, stored_rows: Integers
) -> npt.NDArray[np.float64]:
    """The cosine of each pair of rows; two rows of zeros agree. Each pair is computed once."""
    pairs, places = np.unique(np.stack([exact_rows, stored_rows]), axis=1, return_inverse=True)
    found = cosines(exact[pairs[0]], stored[pairs[1]])
    return np.asarray(found[places.ravel()])
