"""How the field reports retrieval: recall at k, average precision, inverse negative penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

RECALL_AT = (1, 2, 4, 8)


@dataclass(frozen=True)
class QueryMeasures:
    """One query against ranked rows, of which at least one is right.

    Attributes:
        first: rank of the first right row, from 1. The query counts for recall at k (Jegou et
            al. 2011), which is the CMC curve at rank k, where `first <= k`.
        average_precision: mean over the right rows of the precision at their ranks (Manning et
            al. 2008, "Introduction to Information Retrieval", 8.4); its mean over queries is mAP.
        inverse_penalty: right rows / rank of the last one, 1 where nothing wrong lies before any
            of them; its mean is mINP (Ye et al. 2021, "Deep Learning for Person
            Re-identification: A Survey and Outlook", equations 6 and 7).
        precision_at_r: average precision over the first R ranks, R being the right rows; its mean
            is MAP@R (Musgrave et al. 2020, "A Metric Learning Reality Check").
    """

    first: int
    average_precision: float
    inverse_penalty: float
    precision_at_r: float


@dataclass(frozen=True)
class Recall:
    """How well neighbors share the query's label.

    Attributes:
        queries: images that have a row of their label to find.
        recall: k -> share of queries with a row of their label among the k nearest.
        map_at_r: mean over the queries of `QueryMeasures.precision_at_r`.
    """

    queries: int
    recall: dict[int, float]
    map_at_r: float


def query_measures(right: npt.NDArray[np.bool_]) -> QueryMeasures:
    """Measure one query.

    Args:
        right: `bool [N]`, whether each row has the query's label, nearest row first; at least one.
    """
    ranks = np.flatnonzero(right) + 1
    precisions = np.arange(1, len(ranks) + 1) / ranks
    relevant = len(ranks)
    return QueryMeasures(
        first=int(ranks[0]),
        average_precision=float(precisions.mean()),
        inverse_penalty=relevant / int(ranks[-1]),
        precision_at_r=float(precisions[ranks <= relevant].sum() / relevant),
    )


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
    found: list[QueryMeasures] = []
    for number, label in enumerate(query_labels):
        order = np.argsort(-similarities[number], kind="stable")
        right = row_labels[order[order != number] if alone else order] == label
        if right.any():
            found.append(query_measures(right))
    count = max(len(found), 1)
    return Recall(
        queries=len(found),
        recall={k: sum(each.first <= k for each in found) / count for k in RECALL_AT},
        map_at_r=sum(each.precision_at_r for each in found) / count,
    )
