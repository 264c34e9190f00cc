"""The wrong answers to look at: query and match, each with its heat; a page and a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from foldcam.benchmarks.evaluation.retrieval.report import RECALL_AT
from foldcam.benchmarks.evaluation.retrieval.study import Query
from foldcam.benchmarks.evaluation.retrieval.subject import Subject
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.images.page import open_page, page_text, picture_uri
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.model.drawing.text import draw_caption
from foldcam.runtime.system.text import printable

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
    """A wrong answer.

    Attributes:
        query: what was asked and answered.
        image: `uint8 [H, W, 3]` RGB, the query with its heat.
        match: the matched picture with its own heat; None where it is not at hand.
    """

    query: Query
    image: Image
    match: Image | None


def wrong_answers(subject: Subject, queries: Sequence[Query], most: int) -> Iterator[Wrong]:
    """The wrong answers with the greatest similarity first, drawn one by one.

    Args:
        subject: what was asked.
        queries: all of them.
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
        title: plain text.
        document: of `report_document`.
        subject: for the names of its rows.
        wrong: the answers to show.

    Raises:
        FoldcamError: the file cannot be written.
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
