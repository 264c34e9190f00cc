"""The figures of retrieval, for `--json` and a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap
from foldcam.benchmarks.evaluation.retrieval.study import Query, Retrieval
from foldcam.export.banks.bank import Bank

RECALL_AT = (1, 5, 10)
_CURVE = 50
_LABEL_DRAWS = 500
_SHOWN = 10


def report_document(found: Retrieval, bank: Bank, draws: int = 2000) -> dict[str, Any]:
    """Everything, for `--json`.

    Args:
        found: the answers.
        bank: for the names of its rows.
        draws: of the intervals' bootstrap.
    """
    queries = found.queries
    labels = sorted({query.sample.label for query in queries})
    wrong = Counter((q.sample.label, q.answer) for q in queries if not q.right)
    names = bank.row_names()
    ranks = np.asarray([query.measures.first for query in queries])
    return {
        "images": len(queries),
        **_measures(queries, draws),
        "cmc": [round(float((ranks <= k).mean()), 6) for k in range(1, min(_CURVE, bank.rows) + 1)],
        "per_label": {
            label: {"images": len(own), **_measures(own, min(draws, _LABEL_DRAWS))}
            for label in labels
            for own in [[query for query in queries if query.sample.label == label]]
        },
        "confusion": [
            {"label": label, "answer": answer, "images": count}
            for (label, answer), count in sorted(wrong.items(), key=lambda item: -item[1])
        ],
        "queries": [
            {
                "image": query.sample.row_name,
                "label": query.sample.label,
                "answer": query.answer,
                "right": query.right,
                "row": query.match,
                "row_name": names[query.match] or None,
                "similarity": round(query.similarity, 6),
                "rank_of_first_right": query.measures.first,
                "average_precision": round(query.measures.average_precision, 6),
                "inverse_negative_penalty": round(query.measures.inverse_penalty, 6),
                "in_bank": query.in_bank,
            }
            for query in queries
        ],
        "unknown_labels": found.unknown_labels,
        "without_another_row": found.lone,
        "own_images": found.own_images,
        "notes": list(found.notes),
        "skipped": [{"path": path, "reason": reason} for path, reason in found.skipped],
    }


def text_report(document: Mapping[str, Any]) -> str:
    """Figures with their intervals, by label, and what is taken for what."""
    lines = [f"note: {note}" for note in document["notes"]]
    lines.append(f"{'':<32}{'images':>7}{'recall@1':>10}{'@5':>7}{'@10':>7}{'mAP':>8}{'mINP':>8}")
    lines += [_line(label, row) for label, row in document["per_label"].items()]
    lines.append(_line("all", document))
    for name, title in (
        *((f"recall_at_{k}", f"recall@{k}") for k in RECALL_AT),
        ("map", "mAP"),
        ("minp", "mINP"),
    ):
        found = document[name]
        lines.append(
            f"{title:<10} {found['mean']:.3f} "
            f"(95 % interval {found['low']:.3f} to {found['high']:.3f})"
        )
    first = document["recall_at_1"]
    lines.append(
        f"neighbor has the right label: {first['mean']:.1%} of {document['images']} images "
        f"(95 % interval {first['low']:.1%} to {first['high']:.1%})"
    )
    lines += [
        f"taken for another: {item['label']} for {item['answer']} ({item['images']} images)"
        for item in document["confusion"][:_SHOWN]
    ]
    if document["unknown_labels"]:
        lines.append(
            f"left out: {document['unknown_labels']} images of labels that the bank does not have"
        )
    lines += [f"skipped {item['path']}: {item['reason']}" for item in document["skipped"]]
    return "\n".join(lines)


def _line(label: str, row: Mapping[str, Any]) -> str:
    recalls = [f"{row[f'recall_at_{k}']['mean']:.1%}" for k in RECALL_AT]
    return (
        f"{label:<32}{row['images']:>7}{recalls[0]:>10}{recalls[1]:>7}{recalls[2]:>7}"
        f"{row['map']['mean']:>8.3f}{row['minp']['mean']:>8.3f}"
    )


def _measures(queries: Sequence[Query], draws: int) -> dict[str, Any]:
    """Each measure with its 95 % interval: Wilson's of shares, the bootstrap's of means."""
    measures = [query.measures for query in queries]
    means = {
        "map": [m.average_precision for m in measures],
        "minp": [m.inverse_penalty for m in measures],
    }
    return {
        **{f"recall_at_{k}": asdict(_share([m.first <= k for m in measures])) for k in RECALL_AT},
        **{name: asdict(bootstrap(each, draws=draws)) for name, each in means.items()},
    }


def _share(hits: Sequence[bool]) -> Interval:
    """A share with the score interval of Wilson (1927), which five hits of five do not shrink."""
    count, share = len(hits), sum(hits) / len(hits)
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))
