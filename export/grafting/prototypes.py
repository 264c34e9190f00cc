"""Prototypes: fewer rows of grad-weights that images share, or rows that stand for images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.banks.low_rank import factors
from foldcam.export.banks.numbers import unit_rows
from foldcam.export.grafting.options import Compression
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]


def with_prototypes(bank: Bank, per_label: int, seed: int = 0) -> Bank:
    """At most `per_label` rows of grad-weights for each label; embeddings and rows stay.

    The embeddings of a label are clustered by k-means, and the images of a cluster share the
    mean of their grad-weights. A label that has no more distinct rows than that keeps them.

    Args:
        per_label: at least 1.
    """
    from sklearn.cluster import KMeans

    if bank.outcome is not None:
        raise FoldcamError(
            "--compress prototypes:N shares grad-weights within a label, and a continuous outcome "
            "has none: use --compress rank:R."
        )
    tables: list[Floats] = []
    index = np.empty(bank.rows, np.int32)
    start = used = 0
    for run in bank.labels:
        rows = slice(start, start + run.count)
        start += run.count
        own, places = np.unique(bank.grad_index[rows], return_inverse=True)
        if len(own) > per_label:
            clustering = KMeans(per_label, n_init=4, random_state=seed).fit(bank.embeddings[rows])
            found, places = np.unique(clustering.labels_, return_inverse=True)
            weights = bank.grad_weights[bank.grad_index[rows]].astype(np.float64)
            sums = np.zeros((len(found), bank.channels))
            np.add.at(sums, places, weights)
            table = (sums / np.bincount(places)[:, None]).astype(np.float32)
        else:
            table = bank.grad_weights[own]
        index[rows] = used + places
        used += len(table)
        tables.append(table)
    return replace(
        bank,
        grad_weights=np.concatenate(tables),
        grad_index=index,
        compression=Compression("prototypes", per_label).name,
    )


def prototype_rows(bank: Bank, per_label: int, seed: int = 0) -> Bank:
    """At most `per_label` rows for each label in place of its images.

    Unlike `with_prototypes`, which keeps every embedding, rows are replaced: by the centroids of
    a label's embeddings, with the mean of their images' grad-weights. The bank no longer knows
    single images.

    Args:
        per_label: at least 1.
    """
    single = np.arange(bank.rows, dtype=np.int32)
    nothing = np.zeros((bank.rows, 1), np.float32)
    found = with_prototypes(replace(bank, grad_weights=nothing, grad_index=single), per_label, seed)
    _, firsts = np.unique(found.grad_index, return_index=True)
    weights, index = bank.grad_weights, bank.grad_index[firsts]
    if len(weights) == bank.rows:
        weights = _means(bank.row_grad_weights(), found.grad_index)
        index = single[: len(firsts)]
    names = bank.row_labels()
    return replace(
        bank,
        embeddings=unit_rows(_means(bank.embeddings, found.grad_index)),
        grad_weights=weights,
        grad_index=index,
        labels=label_runs([names[row] for row in firsts]),
        compression=found.compression,
        image_hashes=None,
        names=None,
    )


def compressed(bank: Bank, compression: Compression | None, seed: int = 0) -> Bank:
    """A smaller bank: `prototype_rows`, or grad-weights of a low rank."""
    if compression is None or compression.kind == "none":
        return bank
    if compression.kind == "prototypes":
        return prototype_rows(bank, compression.size, seed)
    weights = factors(bank.grad_weights, compression.size).product()
    return replace(bank, grad_weights=weights, compression=compression.name)


def _means(rows: Floats, clusters: npt.NDArray[np.int32]) -> Floats:
    """`float32 [clusters, columns]`, of the rows of each cluster."""
    sums = np.zeros((int(clusters.max()) + 1, rows.shape[1]))
    np.add.at(sums, clusters, rows.astype(np.float64))
    means: Floats = (sums / np.bincount(clusters)[:, None]).astype(np.float32)
    return means
