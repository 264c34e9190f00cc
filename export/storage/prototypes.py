"""Fewer rows of grad-weights: prototypes, which the images of a label share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from export.bank import Bank, scaled_to_unit_maximum
from export.storage.options import Compression
from runtime.errors import FoldcamError

Floats = npt.NDArray[np.float32]


def with_prototypes(bank: Bank, per_label: int, seed: int = 0) -> Bank:
    """At most `per_label` rows of grad-weights for each label; embeddings and rows stay.

    The embeddings of a label are clustered by k-means, and the images of a cluster share the
    mean of their grad-weights, scaled to `max|a| = 1`. A label that has no more distinct rows
    than that keeps them.

    Args:
        bank: of labels.
        per_label: at least 1.
        seed: of k-means.

    Raises:
        FoldcamError: the bank has a continuous outcome.
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
            table = scaled_to_unit_maximum((sums / np.bincount(places)[:, None]).astype(np.float32))
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
