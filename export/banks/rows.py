"""Taking rows out of banks and putting rows of several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank, BankOutcome, label_runs
from foldcam.export.banks.steps import data_hash
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def rows_of(bank: Bank, rows: Integers) -> Bank:
    """Some rows of a bank; grad-weights that no row uses any more go.

    Args:
        rows: `int64 [m]`, in ascending order, at least one.
    """
    used, index = np.unique(bank.grad_index[rows], return_inverse=True)
    labels = bank.row_labels()
    outcome = bank.outcome
    return replace(
        bank,
        embeddings=bank.embeddings[rows],
        grad_weights=bank.grad_weights[used],
        grad_index=index.astype(np.int32),
        labels=label_runs([labels[row] for row in rows]) if labels else (),
        outcome=None if outcome is None else replace(outcome, values=outcome.values[rows]),
        image_hashes=None if bank.image_hashes is None else bank.image_hashes[rows],
        names=None if bank.names is None else tuple(bank.names[row] for row in rows),
    )


def stacked(banks: Sequence[Bank]) -> Bank:
    """The rows of banks that fit each other, by label or by value; earlier banks' rows first.

    Grad-weights and everything else that is not a row's own are as they were in each.
    """
    first = banks[0]
    offsets = np.cumsum([0, *(len(bank.grad_weights) for bank in banks)])
    index = np.concatenate([b.grad_index + o for b, o in zip(banks, offsets, strict=False)])
    outcome, labels = None, [label for bank in banks for label in bank.row_labels()]
    if first.outcome is not None:
        values = np.concatenate([bank.outcome.values for bank in banks if bank.outcome])
        order = np.argsort(values, kind="stable")
        outcome = BankOutcome(values[order], first.outcome.tau, first.outcome.transform)
    else:
        order = np.asarray(sorted(range(len(labels)), key=labels.__getitem__), np.int64)
    names = [name for bank in banks for name in bank.row_names()]
    hashes = [bank.image_hashes for bank in banks if bank.image_hashes is not None]
    return replace(
        first,
        embeddings=np.concatenate([bank.embeddings for bank in banks])[order],
        grad_weights=np.concatenate([bank.grad_weights for bank in banks]),
        grad_index=index[order].astype(np.int32),
        labels=label_runs([labels[row] for row in order]) if labels else (),
        outcome=outcome,
        image_hashes=np.concatenate(hashes)[order] if len(hashes) == len(banks) else None,
        names=tuple(names[row] for row in order),
        mean_summands=mixed_mean([(bank.mean_summands, bank.rows) for bank in banks]),
    )


def mixed_mean(parts: Sequence[tuple[Floats | None, int]]) -> Floats | None:
    """The mean over the images of several sets, from the mean and the number of each.

    Args:
        parts: `float32 [K', h, w]` and how many images it is of.

    Returns:
        None where one of them is not known.
    """
    known = [(mean.astype(np.float64), count) for mean, count in parts if mean is not None]
    if len(known) < len(parts):
        return None
    total = sum(count for _, count in known)
    mixed: Floats = (np.sum([mean * count for mean, count in known], axis=0) / total).astype(
        np.float32
    )
    return mixed


def with_data_hash(bank: Bank, **origin: str) -> Bank:
    """The bank with the hash of the data that it has now, and other parts of its origin.

    The hash is the one of a bank built from scratch, where each row's image and label are
    known; else it is empty.
    """
    if bank.source is None:
        return bank
    sha256 = ""
    if bank.image_hashes is not None and bank.outcome is None:
        sha256 = data_hash([row.tobytes().hex() for row in bank.image_hashes], bank.row_labels())
    changed = replace(bank.source.origin, data_sha256=sha256, **origin)
    return replace(bank, source=replace(bank.source, origin=changed))


def file_hashes(bank: Bank, why: str) -> list[str]:
    """Hexadecimal SHA-256 of each row's image file."""
    if bank.image_hashes is None:
        raise FoldcamError(
            f"The bank does not know its image files, so {why}: its rows are no images "
            "(prototypes), or an older foldcam wrote it; build it again."
        )
    return [row.tobytes().hex() for row in bank.image_hashes]


def held_hashes(bank: Bank) -> frozenset[str]:
    """The hashes of the bank's pictures; none where it does not know them."""
    if bank.image_hashes is None:
        return frozenset()
    return frozenset(row.tobytes().hex() for row in bank.image_hashes)
