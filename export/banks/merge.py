"""The rows of a bank and those of new images, put in one order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.banks.bank_source import BankSource
from foldcam.export.banks.embedding_pass import EmbeddingPass
from foldcam.export.banks.numbers import unit_rows
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.steps import data_hash, hash_rows, values_of
from foldcam.export.datasets import Dataset, Sample

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MergedRows:
    """Old and new rows in the new bank's order.

    Attributes:
        order: `int64 [N]`, for each row its place among the old rows followed by the new.
        embeddings: `float32 [N, D]` of norm 1.
        labels: the labels of each row; empty for a continuous outcome.
        classes: `int64 [N]`, the labels as numbers 0..C-1.
        outcome: values of the rows, None where they have labels.
        hashes: `uint8 [N, 32]` of the image files, None where the bank does not know its own.
        names: what the pictures are called, see `Bank.names`.
    """

    order: Integers
    embeddings: Floats
    labels: list[str]
    classes: Integers
    outcome: BankOutcome | None
    hashes: npt.NDArray[np.uint8] | None
    names: tuple[str, ...]


def in_order_of_rows(samples: Sequence[Sample], kernel: KernelObjective | None) -> list[Sample]:
    """Samples by label, or by value for a continuous outcome."""
    if kernel is None:
        return sorted(samples, key=lambda sample: sample.label)
    return sorted(samples, key=lambda sample: values_of([sample])[0])


def merge_rows(
    bank: Bank, found: EmbeddingPass, kept: list[Sample], kernel: KernelObjective | None
) -> MergedRows:
    """Old rows and new ones, sorted as in a bank built from scratch over both.

    Args:
        kernel: the objective of a continuous outcome, None for labels.
    """
    embeddings = np.concatenate([bank.embeddings, unit_rows(found.embeddings, kept)])
    hashes = None
    if bank.image_hashes is not None:
        hashes = np.concatenate([bank.image_hashes, hash_rows(found.hashes)])
    called = [*bank.row_names(), *(sample.row_name for sample in kept)]
    if kernel is None or bank.outcome is None:
        given = [*bank.row_labels(), *(sample.label for sample in kept)]
        # Stable, as in a bank built from scratch: old rows stay before new ones.
        order = np.asarray(sorted(range(len(given)), key=given.__getitem__), np.int64)
        labels = [given[place] for place in order]
        _, classes = np.unique(labels, return_inverse=True)
        outcome = None
    else:
        values = np.concatenate([bank.outcome.values, kernel.on_scale(values_of(kept))])
        order = np.argsort(values, kind="stable")
        labels, classes = [], np.zeros(len(values), np.int64)
        outcome = BankOutcome(values[order], kernel.tau, kernel.transform)
    return MergedRows(
        order=order,
        embeddings=np.ascontiguousarray(embeddings[order]),
        labels=labels,
        classes=classes.astype(np.int64),
        outcome=outcome,
        hashes=None if hashes is None else hashes[order],
        names=tuple(called[place] for place in order),
    )


def merged_source(
    source: BankSource, bank: Bank, dataset: Dataset, found: EmbeddingPass, kept: list[Sample]
) -> BankSource:
    """Where a bank with added rows comes from."""
    old = source.origin
    if bank.image_hashes is not None and bank.outcome is None:
        hashes = [row.tobytes().hex() for row in bank.image_hashes]
        data_sha256 = data_hash(hashes, bank.row_labels())
    else:
        # What the old rows' files were called is not known any more.
        added = data_hash(found.hashes, [sample.label for sample in kept])
        data_sha256 = hashlib.sha256(f"{old.data_sha256} {added}".encode()).hexdigest()
    origin = replace(
        old,
        data=_joined(old.data, dataset.name),
        split=_joined(old.split, dataset.split),
        data_sha256=data_sha256,
    )
    return replace(source, origin=origin)


def _joined(old: str, new: str) -> str:
    return old if new in old.split(" + ") else f"{old} + {new}"
