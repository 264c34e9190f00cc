"""The HTML of a run's report: one card per picture, the figures, and what is sorted and filtered.

Whatever comes from the user (names, labels, reasons) goes through `html.escape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from foldcam.runtime.contract.gallery import Gallery
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.page import picture_uri
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.drawing.style import Style
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.match import match_lines, row_picture
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.text import printable, shorten

MOST_MATCHES = 4
"""Regions of a frame that have a card's pictures; more are named."""
_MOST_NAME = 200
_MOST_LABELS = 1000
_QUALITY = 76

STYLE = """
#figures { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 12px 0; padding: 0; }
#figures div { display: flex; flex-direction: column-reverse; }
#figures dt { color: var(--quiet); font-size: .85rem; }
#figures dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
#controls { display: flex; flex-wrap: wrap; gap: 8px 16px; margin: 16px 0; align-items: end; }
#controls label { display: grid; grid-template-columns: minmax(0, 1fr); font-size: .85rem;
  color: var(--quiet); flex: 1 1 140px; max-width: 260px; }
#controls select { font: inherit; font-size: 1rem; min-height: 40px; width: 100%; }
#shown { min-height: 40px; align-content: center; }
.card { content-visibility: auto; contain-intrinsic-size: 300px 340px; }
.card img { width: 100%; }
.card h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.card h3 span { font-weight: 400; font-variant-numeric: tabular-nums; }
.card .pictures { margin-top: 8px; flex-wrap: wrap; }
.card .pictures figure { flex-basis: 40%; }
.card figcaption { color: var(--quiet); }
.card .quiet { font-size: .85rem; overflow-wrap: anywhere; }
.card h3.bad b { color: var(--bad); }
li { overflow-wrap: anywhere; }
summary { cursor: pointer; min-height: 32px; }
"""

SCRIPT = """
const list = document.getElementById("cards");
const cards = [...list.children];
const find = (id) => document.getElementById(id);
const number = (card) => card.dataset.similarity === "" ? NaN : Number(card.dataset.similarity);
const byNumber = (way) => (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return way * (x - y);
};
const names = new Intl.Collator("en", { numeric: true });
const orders = {
  run: (a, b) => cards.indexOf(a) - cards.indexOf(b),
  name: (a, b) => names.compare(a.dataset.name, b.dataset.name),
  low: byNumber(1),
  high: byNumber(-1),
};
function update() {
  const label = find("label").value;
  const kind = find("kind").value;
  let shown = 0;
  for (const card of cards) {
    const fits = (label === "" || card.dataset.labels.split("\\n").includes(label.slice(1)))
      && (kind === "" || card.classList.contains(kind));
    card.hidden = !fits;
    shown += fits;
  }
  list.append(...[...cards].sort(orders[find("order").value]));
  find("shown").textContent = `${shown} of ${cards.length} shown`;
}
for (const id of ["order", "label", "kind"]) find(id).addEventListener("input", update);
find("controls").hidden = false;
update();
"""


def card(item: FrameResults, name: str) -> str:
    """One picture with its heat, its answer, and beside it what it was matched to.

    Args:
        item: at the size in which it is shown; its gallery has the matches, if there is one.
    """
    results = item.results[:MOST_MATCHES]
    pictures = [_figure(item.image, [name])]
    if item.gallery is not None:
        pictures += [
            _match(result, item.gallery, item.style, alone=len(results) == 1)
            for result in results
            if result.valid and len(result.neighbors)
        ]
    answers = [_answer(result) for result in results]
    if more := len(item.results) - len(results):
        answers.append(f'<p class="quiet">and {more} more regions</p>')
    if not answers:
        answers.append('<p class="quiet">no region</p>')
    first = item.result
    number = ""
    if first is not None and first.valid:
        number = f"{first.estimate if first.estimate is not None else first.similarities[0]:.6g}"
    labels = "\n".join(dict.fromkeys(printable(label_of(result)) for result in item.results))
    return (
        f'<article class="{" ".join(["card", *_kinds(item.results)])}" data-name="{_text(name)}" '
        f'data-similarity="{number}" data-labels="{escape(labels)}">'
        f'{"".join(answers)}<div class="pictures">{"".join(pictures)}</div></article>\n'
    )


def heading(names: str, contract: Contract | None) -> str:
    """The title, and the model that answered."""
    lines = f"<h1>{_text(names)}</h1>\n"
    if contract is None:
        return lines
    what = f"{contract.bank.rows:,} training images of {contract.origin.data}"
    if contract.labels:
        what += f", {len({run.name for run in contract.labels}):,} labels"
    compared = _text(f"Compared with {what} ({contract.origin.network}).")
    return f'{lines}<p class="quiet">{compared}</p>\n'


def figures(numbers: Mapping[str, str]) -> str:
    """The run's figures, each with its name below."""
    inner = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in numbers.items()
    )
    return f'<dl id="figures">{inner}</dl>\n'


def controls(labels: Iterable[str], estimates: bool, kinds: Mapping[str, str]) -> str:
    """The order and the filters; shown only where scripts run."""
    what = "estimate" if estimates else "similarity"
    orders = {"run": "as they came", "low": f"lowest {what}",
              "high": f"highest {what}", "name": "by name"}  # fmt: skip
    # A mark before each, so that a label which is empty differs from none.
    choices = {"": "all"} | {f"={printable(label)}": label for label in sorted(labels)}
    selects = [
        ("order", "Order", orders, False),
        ("label", "Label", choices, len(choices) < 3),
        ("kind", "Answers", {"": "all"} | dict(kinds), not kinds),
    ]
    inner = "".join(
        f"<label{' hidden' if empty else ''}>{title}"
        f'<select id="{name}">{_options(options)}</select></label>'
        for name, title, options, empty in selects
    )
    return f'<form id="controls" hidden>{inner}<output id="shown" class="quiet"></output></form>\n'


def listed(title: str, lines: Sequence[str]) -> str:
    """A list that is folded away where it is long; nothing for no lines."""
    if not lines:
        return ""
    inner = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return (
        f"<details{' open' if len(lines) <= 10 else ''}><summary>{escape(title)}</summary>"
        f"<ul>{inner}</ul></details>\n"
    )


def _figure(image: Image | None, lines: Sequence[str]) -> str:
    picture = ""
    if image is not None:
        uri = picture_uri(image, quality=_QUALITY)
        picture = f'<img src="{uri}" alt="" loading="lazy" decoding="async">'
    return f"<figure>{picture}<figcaption>{'<br>'.join(map(_text, lines))}</figcaption></figure>"


def _match(result: Result, gallery: Gallery, style: Style, *, alone: bool) -> str:
    what = "nearest picture" if (result.vote or result).unknown else "matched to"
    lines = match_lines(result, gallery)
    # What the heading says of the only answer need not be said twice.
    matched_to = lines[-1:] if alone else lines
    return _figure(row_picture(gallery, int(result.neighbors[0]), style), [what, *matched_to])


def _answer(result: Result) -> str:
    if result.error is not None:
        why = f'<p class="quiet">{_text(result.error)}</p>'
        return f'<h3 class="bad"><b>{escape(result.answer)}</b></h3>{why}'
    similarity = f"{result.similarities[0]:.3f}"
    if result.estimate is not None:
        said, detail = f"estimate {result.answer}", [f"similarity {similarity}"]
        similarity = ""
    else:
        said = (result.vote or result).answer
        detail = [f"nearest: {result.labels[0]}"] if result.unknown else []
        if result.vote is not None:
            now = "" if result.answer == said else f"; now {result.answer}"
            detail.append(f"{result.vote.votes}{now}")
    if result.no_evidence:
        detail.append("nothing in the picture speaks for it")
    quiet = f'<p class="quiet">{_text(", ".join(detail))}</p>' if detail else ""
    mark = ' class="bad"' if (result.vote or result).unknown else ""
    return f"<h3{mark}><b>{_text(said)}</b> <span>{similarity}</span></h3>{quiet}"


def _kinds(results: Sequence[Result]) -> list[str]:
    found = {
        "unknown": any((result.vote or result).unknown for result in results),
        "known": any(
            result.valid and (result.vote or result).unknown is False for result in results
        ),
        "blank": any(result.no_evidence for result in results),
        "silent": any(not result.valid for result in results),
    }
    return [name for name, there in found.items() if there]


def label_of(result: Result) -> str:
    """The label under which a card is found: the voted one, or the nearest, of an unknown too."""
    if result.vote is not None and result.vote.label is not None:
        return result.vote.label
    return result.labels[0] if result.labels else ""


def _options(choices: Mapping[str, str]) -> str:
    return "".join(
        f'<option value="{escape(value)}">{_text(text) or "(empty)"}</option>'
        for value, text in list(choices.items())[:_MOST_LABELS]
    )


def _text(text: str) -> str:
    return escape(shorten(printable(text), _MOST_NAME))
