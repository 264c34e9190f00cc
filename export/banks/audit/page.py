"""The page of an audit: pictures of what looks wrong, and a list to remove by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from foldcam.export.banks.audit.audit import Audit, trial_text
from foldcam.export.banks.pictures import RowPictures
from foldcam.runtime.images.page import open_page, page_text, picture_uri
from foldcam.runtime.system.text import printable

_SIDE = 150
_MOST = 50
"""Cards of each section but the first."""
_STYLE = """
.card .pictures { align-items: stretch; }
.card figure img { width: 100%; aspect-ratio: 1; object-fit: cover; }
.card .own { outline: 2px solid var(--bad); outline-offset: 1px; border-radius: 4px; }
.card p, .card label { overflow-wrap: anywhere; }
.card label { display: block; margin-top: .5em; font-size: .9rem; }
textarea { width: 100%; min-height: 8em; font: 13px/1.4 monospace; }
"""
_SCRIPT = """
const ticks = [...document.querySelectorAll('input[type=checkbox]')];
const list = document.getElementById('list');
const update = () => {
  list.value = [...new Set(ticks.filter(t => t.checked).map(t => t.value))].join('\\n');
};
ticks.forEach(t => t.addEventListener('change', update));
update();
"""


def write_page(path: Path, audit: Audit, pictures: RowPictures, bank: Path, most: int) -> None:
    """Write the page.

    Args:
        path: the `.html` file.
        audit: what was found.
        pictures: of the bank's rows.
        bank: the bank's file, for the title and the command.
        most: rows that are likely mislabelled, at most.
    """
    title = f"Audit of {printable(bank.name)}"
    with open_page(path, title, _STYLE, _SCRIPT) as page:
        write = _Writer(page, audit, pictures)
        page.write(
            f"<h1>{page_text(title)}</h1>\n<p>{audit.bank.rows} rows of {len(audit.labels)} "
            f"labels; the labels of {int(audit.disagreement.doubted.sum())} rows are doubted by "
            "both judges, the nearest rows and a classifier of all other rows.</p>\n"
        )
        if audit.trial is not None:
            page.write(f"<p>{page_text(trial_text(audit.trial))}</p>\n")
        for note in audit.notes:
            page.write(f'<p class="quiet">{page_text(note)}</p>\n')
        write.suspects(most)
        write.duplicates()
        write.mixed()
        write.lonely()
        page.write(
            "<h2>What to remove</h2>\n<p>Ticked pictures, one name on each line. Save the list as "
            f"<code>list.txt</code>, and remove them with <code>foldcam bank remove "
            f"{page_text(bank.name)} --images-from list.txt --out less.safetensors</code>; a label "
            "is corrected in the data set, from which the bank is built again.</p>\n"
            '<textarea id="list" readonly aria-label="Names of ticked pictures"></textarea>\n'
        )


class _Writer:
    """Writes sections of cards."""

    def __init__(self, page: TextIO, audit: Audit, pictures: RowPictures) -> None:
        self._page, self._audit, self._pictures = page, audit, pictures
        self._uris: dict[int, str | None] = {}

    def suspects(self, most: int) -> None:
        """Rows that are likely mislabelled, each beside its neighbors."""
        audit = self._audit
        rows = audit.suspects()
        self._head(
            "Likely mislabelled",
            "Rows in the order in which to look at them, each beside its nearest rows; perhaps "
            "where not both judges prefer another label.",
            rows,
            most,
        )
        for place, row in enumerate(rows[:most], start=1):
            rather = page_text(audit.labels[audit.disagreement.rival[row]])
            sure = "" if audit.disagreement.doubted[row] else " perhaps"
            self._card(
                f"{place}. <b>{page_text(audit.labels[audit.classes[row]])}</b>, rather{sure} "
                f"<b>{rather}</b>?",
                [row, *audit.neighbors.rows[row, :3].tolist()],
            )
        self._page.write("</div>\n")

    def duplicates(self) -> None:
        """Pairs of different labels that may be one picture."""
        pairs = self._audit.duplicates
        self._head(
            "Near-duplicates across labels",
            "Two rows of different labels that are one picture, or nearly: one label is wrong.",
            pairs,
            _MOST,
        )
        for pair in pairs[:_MOST]:
            what = "the same file" if pair.same else "nearly the same"
            self._card(what, [pair.first, pair.second], ticks=2)
        self._page.write("</div>\n")

    def mixed(self) -> None:
        """Labels whose rows mix, with the first rows of each."""
        audit = self._audit
        self._head(
            "One cluster under two names",
            "Labels that their rows' neighbors do not tell apart: perhaps two names of one.",
            audit.mixed,
            _MOST,
        )
        for pair in audit.mixed[:_MOST]:
            rows = [
                int(row)
                for label in (pair.first, pair.second)
                for row in (audit.classes == label).nonzero()[0][:2]
            ]
            names = [page_text(audit.labels[label]) for label in (pair.first, pair.second)]
            self._card(
                f"<b>{names[0]}</b> and <b>{names[1]}</b>: mixed to {min(pair.ratio, 1):.0%} of "
                "chance",
                rows,
                ticks=0,
            )
        self._page.write("</div>\n")

    def lonely(self) -> None:
        """Rows far from everything, each beside its nearest row."""
        rows = self._audit.lonely
        self._head(
            "Lonely rows",
            "Rows much farther from the nearest other row than is usual in this bank: rare views, "
            "or pictures that do not belong here.",
            rows,
            _MOST,
        )
        for row in rows[:_MOST]:
            self._card("", [row, int(self._audit.neighbors.rows[row, 0])])
        self._page.write("</div>\n")

    def _head(self, title: str, what: str, items: Sequence[object], most: int) -> None:
        count = f"{len(items)}" if len(items) <= most else f"the first {most} of {len(items)}"
        self._page.write(
            f'<h2>{title} ({count})</h2>\n<p class="quiet">{what}</p>\n<div class="cards">\n'
        )

    def _card(self, title: str, rows: Sequence[int], ticks: int = 1) -> None:
        figures = "".join(self._figure(row, rows[0], n == 0) for n, row in enumerate(rows))
        names = [self._audit.bank.row_names()[row] for row in rows[:ticks]]
        boxes = "".join(
            f'<label><input type="checkbox" value="{name}"> remove {name}</label>'
            for name in map(page_text, names)
            if name
        )
        self._page.write(
            f'<div class="card">{f"<p>{title}</p>" if title else ""}'
            f'<div class="pictures">{figures}</div>{boxes}</div>\n'
        )

    def _figure(self, row: int, first: int, own: bool) -> str:
        audit = self._audit
        label = page_text(audit.labels[audit.classes[row]])
        name = page_text(audit.bank.row_names()[row] or f"row {row}")
        near = "" if own else f", {audit.similarity(first, row):.2f}"
        uri = self._uri(row)
        kind = ' class="own"' if own else ""
        picture = (
            '<div class="none">no picture</div>'
            if uri is None
            else f'<img{kind} src="{uri}" alt="{name}" loading="lazy">'
        )
        return f'<figure>{picture}<figcaption title="{name}">{label}{near}</figcaption></figure>'

    def _uri(self, row: int) -> str | None:
        if row not in self._uris:
            image = self._pictures.get(row)
            self._uris[row] = None if image is None else picture_uri(image, _SIDE)
        return self._uris[row]
