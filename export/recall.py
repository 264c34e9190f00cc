"""Retrieval quality of embeddings: recall at k and MAP at R."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

RECALL_AT = (1, 2, 4, 8)


@dataclass(frozen=True)
class Recall:
    """How well neighbors share the query's label.

    Attributes:
        queries: images that have a row of their label to find.
        recall: k -> share of queries with a row of their label among the k nearest.
        map_at_r: mean average precision at R, R being the number of rows of the
            query's label (Musgrave et al. 2020, "A Metric Learning Reality Check").
    """

    queries: int
    recall: dict[int, float]
    map_at_r: float


def recall_at_k(
    queries: Floats,
    query_labels: Integers,
    rows: Floats | None = None,
    row_labels: Integers | None = None,
) -> Recall:
    """Recall@1/2/4/8 and MAP@R by exhaustive cosine search.

    Args:
        queries: `float32 [Q, D]` of norm 1.
        query_labels: `int64 [Q]`.
        rows: `float32 [N, D]` of norm 1 to search in; None searches among the
            queries themselves, each without itself.
        row_labels: `int64 [N]`.
    """
    alone = rows is None or row_labels is None
    if rows is None or row_labels is None:
        rows, row_labels = queries, query_labels
    similarities = queries @ rows.T
    if alone:
        np.fill_diagonal(similarities, -np.inf)
    hits = dict.fromkeys(RECALL_AT, 0)
    precision = 0.0
    counted = 0
    for number, label in enumerate(query_labels):
        relevant = int((row_labels == label).sum()) - int(alone)
        if relevant < 1:
            continue
        counted += 1
        found = row_labels[np.argsort(-similarities[number], kind="stable")] == label
        for k in RECALL_AT:
            hits[k] += bool(found[:k].any())
        first = found[:relevant]
        precision += float((first * np.cumsum(first) / np.arange(1, relevant + 1)).sum() / relevant)
    return Recall(
        queries=counted,
        recall={k: hits[k] / max(counted, 1) for k in RECALL_AT},
        map_at_r=precision / max(counted, 1),
    )
