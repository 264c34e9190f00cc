"""The figures of retrieval for `--json` and a terminal; the wrong answers as a page and a sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any, TextIO

import numpy as np

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap
from foldcam.benchmarks.evaluation.retrieval.study import Query, Retrieval, Subject
from foldcam.export.banks.bank import Bank
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.images.page import open_page, page_text, picture_uri
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.system.text import printable

RECALL_AT = (1, 5, 10)
_CURVE = 50
_LABEL_DRAWS = 500
_SHOWN = 10


def report_document(found: Retrieval, bank: Bank, draws: int = 2000) -> dict[str, Any]:
    """Everything, for `--json`."""
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


_TILE = 240
_ACROSS = 3
"""Pairs in a row of the sheet."""
_STYLE = """
.card figure img { width: 100%; }
.card p { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
.wide td { white-space: nowrap; }
svg { max-width: 420px; width: 100%; height: auto; }
"""


@dataclass(frozen=True, eq=False)
class Wrong:
    """A wrong answer."""

    query: Query  # what was asked and answered
    image: Image  # `uint8 [H, W, 3]` RGB, the query with its heat
    match: Image | None  # the matched picture with its own heat; None where it is not at hand


def wrong_answers(subject: Subject, queries: Sequence[Query], most: int) -> Iterator[Wrong]:
    """The wrong answers with the greatest similarity first, drawn one by one.

    Args:
        most: as many at most.
    """
    wrong = sorted((query for query in queries if not query.right), key=lambda q: -q.similarity)
    for query in wrong[:most]:
        match = subject.pictures.get(query.match)
        yield Wrong(
            query,
            _heated(subject, read_picture(query.sample).image),
            None if match is None else _heated(subject, match),
        )


def write_page(
    path: Path, title: str, document: Mapping[str, Any], subject: Subject, wrong: Sequence[Wrong]
) -> None:
    """Write figures, the confusion of labels and the wrong answers as one page.

    Args:
        path: the `.html` file.
    """
    with open_page(path, printable(title), _STYLE) as page:
        page.write(f"<h1>{page_text(title)}</h1>\n<p>{document['images']} images.</p>\n")
        for note in document["notes"]:
            page.write(f'<p class="quiet">{page_text(note)}</p>\n')
        _figures(page, document)
        page.write(f"<h2>CMC curve</h2>\n{_curve(document['cmc'])}\n")
        _confusion(page, document)
        total = sum(item["images"] for item in document["confusion"])
        page.write(
            f"<h2>Wrong answers ({len(wrong)} of {total})</h2>\n"
            '<p class="quiet">Each query beside the picture that it was matched with, the most '
            "similar first. Heat on the query: what speaks for the match. Heat on the match: what "
            'speaks for its label there.</p>\n<div class="cards">\n'
        )
        for each in wrong:
            _card(page, each, subject)
        page.write("</div>\n")


def contact_sheet(wrong: Sequence[Wrong]) -> Image:
    """Each wrong answer, one at least, beside its match; `uint8 [H, W, 3]` RGB."""
    pairs = []
    for each in wrong:
        query = each.query
        tiles = [draw_caption(_tile(each.image), query.sample.label)]
        match = np.full((_TILE, _TILE, 3), 60, np.uint8)
        caption = f"{query.answer} {query.similarity:.2f}"
        if each.match is not None:
            match = _tile(each.match)
        tiles.append(draw_caption(match, caption))
        pairs.append(np.hstack(tiles))
    across = min(_ACROSS, len(pairs))
    pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % across)
    rows = [np.hstack(pairs[start : start + across]) for start in range(0, len(pairs), across)]
    return np.vstack(rows)


def _heated(subject: Subject, image: Image) -> Image:
    result = subject.model(image)
    heat = heatmap_on_frame(result.heatmap, result.affine, result.input_wh, result.frame_wh)
    return overlay(image, heat)


def _figures(page: TextIO, document: Mapping[str, Any]) -> None:
    heads = ["", "images", *(f"recall@{k}" for k in RECALL_AT), "mAP", "mINP"]
    page.write('<div class="wide"><table>\n<tr>')
    page.write("".join(f'<th class="number">{head}</th>' for head in heads))
    rows = [("all", document), *document["per_label"].items()]
    for name, row in rows:
        cells = [f"{row['images']}"]
        cells += [_interval(row[f"recall_at_{k}"]) for k in RECALL_AT]
        cells += [_interval(row[key]) for key in ("map", "minp")]
        page.write(f"</tr>\n<tr><td>{page_text(name)}</td>")
        page.write("".join(f'<td class="number">{cell}</td>' for cell in cells))
    page.write('</tr>\n</table></div>\n<p class="quiet">With 95 % intervals.</p>\n')


def _interval(value: Mapping[str, float]) -> str:
    return (
        f'{value["mean"]:.3f} <span class="quiet">{value["low"]:.2f} to {value["high"]:.2f}</span>'
    )


def _curve(cmc: Sequence[float]) -> str:
    """Share of queries with a right row among the first k, as a drawing."""
    low = int(min(cmc[0], 0.99) * 10) / 10
    last = max(len(cmc) - 1, 1)
    points = " ".join(
        f"{40 + 350 * n / last:.1f},{170 - 150 * (share - low) / (1 - low):.1f}"
        for n, share in enumerate(cmc)
    )
    return (
        '<svg viewBox="0 0 400 200" role="img" aria-label="CMC curve">'
        '<path d="M40 20V170H390" fill="none" stroke="currentColor" opacity=".5"/>'
        f'<polyline points="{points}" fill="none" stroke="var(--good)" stroke-width="2.5"/>'
        '<g fill="currentColor" font-size="12"><text x="4" y="24">100%</text>'
        f'<text x="4" y="174">{low:.0%}</text><text x="38" y="190">1</text>'
        f'<text x="350" y="190">rank {len(cmc)}</text></g></svg>'
    )


def _confusion(page: TextIO, document: Mapping[str, Any]) -> None:
    if not document["confusion"]:
        return
    page.write(
        '<h2>Confusion of labels</h2>\n<div class="wide"><table>\n'
        '<tr><th>label</th><th>was taken for</th><th class="number">images</th></tr>\n'
    )
    for item in document["confusion"]:
        page.write(
            f"<tr><td>{page_text(item['label'])}</td><td>{page_text(item['answer'])}</td>"
            f'<td class="number">{item["images"]}</td></tr>\n'
        )
    page.write("</table></div>\n")


def _card(page: TextIO, each: Wrong, subject: Subject) -> None:
    query = each.query
    name = subject.bank.row_names()[query.match] or f"row {query.match}"
    match = '<div class="none">the picture of this row is not at hand</div>'
    if each.match is not None:
        match = (
            f'<img src="{picture_uri(each.match, _TILE)}" alt="{page_text(name)}" loading="lazy">'
        )
    called = query.sample.row_name
    page.write(
        f'<div class="card"><p><b>{page_text(query.sample.label)}</b>, taken for '
        f"<b>{page_text(query.answer)}</b> at {query.similarity:.2f}; right at rank "
        f'{query.measures.first}</p><div class="pictures">'
        f'<figure><img src="{picture_uri(each.image, _TILE)}" alt="{page_text(called)}" '
        f'loading="lazy"><figcaption>{page_text(called)}</figcaption></figure>'
        f"<figure>{match}<figcaption>{page_text(name)}</figcaption></figure></div></div>\n"
    )


def _tile(image: Image) -> Image:
    """The picture in a square."""
    small = fitted(image, _TILE, _TILE, enlarge=True)
    height, width = small.shape[:2]
    tile = np.full((_TILE, _TILE, 3), 60, np.uint8)
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    tile[top : top + height, left : left + width] = small
    return tile
