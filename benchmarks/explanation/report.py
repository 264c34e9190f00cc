"""What is told of the heat: a table, a verdict in plain words, Markdown, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.explanation.measures import HEADLINE, percent
from foldcam.benchmarks.localization.report import write_json
from foldcam.export.networks.feature_map import FEW_CELLS
from foldcam.runtime.drawing.overlay import heatmap_on_frame, overlay
from foldcam.runtime.drawing.text import draw_caption
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.system.files import atomic_path

_TILE = 176
_STEP = percent(HEADLINE)
_COLUMNS = (
    "contrast lost",
    "minus other's",
    "minus shifted",
    "labels lost",
    "other's",
    "shifted",
    "margin lost",
    "minus other's",
    "on map: lost",
    "minus other's",
    "insertion",
    "deletion",
    "blank",
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture for the contact sheet.

    Attributes:
        image: `uint8 [H, W, 3]`, as the network is shown it.
        caption: what to say of it.
        maps: method -> `float32 [h, w]`.
        evidence: methods whose maps say nothing where they are not positive.
    """

    image: Image
    caption: str
    maps: Mapping[str, npt.NDArray[np.float32]]
    evidence: frozenset[str]


def verdict(document: Mapping[str, Any]) -> str:
    """Whether the heat of the folded model is worth something, in plain words."""
    name = document["methods"][0]
    found = document["picture"][name][_STEP]
    return " ".join(
        [
            _worth(found["contrast_lost"], "other", "another picture's map does"),
            _worth_shifted(found["contrast_lost"]),
            *_labels(document, found.get("label_lost"), name),
        ]
    )


def _worth(found: Mapping[str, Any], control: str, phrase: str) -> str:
    value = found[f"minus_{control}"]
    more = "more" if value["mean"] >= 0 else "less"
    what = (
        f"blurring its hottest {_STEP} % costs {abs(value['mean']):.3f} of contrast {more} than "
        f"{phrase} (interval {value['low']:.3f} to {value['high']:.3f})"
    )
    if value["low"] > 0:
        return f"The heat is worth something: {what}."
    if value["high"] < 0:
        return f"The heat names the wrong places: {what}."
    return f"The heat says next to nothing: {what}."


def _worth_shifted(found: Mapping[str, Any]) -> str:
    value = found["minus_shifted"]
    return (
        f"Against its own map shifted the difference is {value['mean']:.3f} ({value['low']:.3f} to "
        f"{value['high']:.3f})."
    )


def _labels(document: Mapping[str, Any], found: Mapping[str, Any] | None, name: str) -> list[str]:
    images = document["images"]
    if found is None:
        return [f"No label of the {images['test']} pictures is right to begin with."]
    text = (
        f"It loses the label of {found['own']['mean']:.0%} of the {images['right']} pictures whose "
        f"label is right ({images['test']} were measured); another picture's map of "
        f"{found['other']['mean']:.0%}, its own map shifted of {found['shifted']['mean']:.0%}"
    )
    asks_nothing = document["picture"].get("mean_activation")
    if asks_nothing is not None and name != "mean_activation":
        text += (
            f", mean activation, which asks nothing, of "
            f"{asks_nothing[_STEP]['label_lost']['own']['mean']:.0%}"
        )
    return [f"{text}."]


def notes_of(document: Mapping[str, Any], obstacle: str | None) -> list[str]:
    """What the reader of the figures should know, one sentence each."""
    notes = []
    height, width = document["map"]
    if height * width < FEW_CELLS:
        notes.append(
            f"The map has {height} x {width} cells only, fewer than 5 x 5: {_STEP} % of them are "
            f"{max(1, round(HEADLINE * height * width))}, which say little about where."
        )
    name = document["methods"][0]
    blank = document["blank"][name]
    if blank:
        notes.append(
            f"{blank} of {document['images']['test']} maps of {name} are blank: nothing in them "
            "is positive; their cells were hidden in a drawn order."
        )
    if document["images"]["test"] < 50:
        notes.append(
            f"{document['images']['test']} pictures are few: see the width of the intervals."
        )
    if obstacle is not None:
        notes.append(f"Nothing was replaced on the feature map: {obstacle}")
    if not document["curves"]:
        notes.append(
            "Insertion and deletion are undefined: pictures that are blurred as a whole have "
            "hardly less contrast."
        )
    return notes


def text_table(document: Mapping[str, Any]) -> str:
    """One line for each method, hottest fifth hidden, for a terminal."""
    rows = _rows(document)
    width = max(len(name) for name in rows) + 1
    lines = [" " * width + " ".join(f"{head:>13}" for head in _COLUMNS)]
    lines += [f"{name:<{width}}" + " ".join(f"{c:>13}" for c in row) for name, row in rows.items()]
    return "\n".join(lines)


def markdown_table(document: Mapping[str, Any]) -> str:
    """The same with intervals, as Markdown."""
    lines = ["| method | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, row in _rows(document, intervals=True).items():
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def write_results(out: Path, document: Mapping[str, Any]) -> None:
    """Write `explanation.json` and `explanation.md`."""
    write_json(out / "explanation.json", document)
    with atomic_path(out / "explanation.md") as temporary:
        notes = "".join(f"- {note}\n" for note in document["notes"])
        page = f"{document['verdict']}\n\n{markdown_table(document)}\n\n{notes}"
        temporary.write_text(page, encoding="utf-8")


def _rows(document: Mapping[str, Any], intervals: bool = False) -> dict[str, list[str]]:
    rows = {}
    for name in document["methods"]:
        here = document["picture"][name][_STEP]
        on_map = document["on_feature_map"]
        there = {} if on_map is None else on_map[name][_STEP]
        curves = document["curves"].get(name, {})
        cells = [
            _signed(here["contrast_lost"].get(form), intervals)
            for form in ("own", "minus_other", "minus_shifted")
        ]
        cells += [
            _share(here.get("label_lost", {}).get(form), intervals)
            for form in ("own", "other", "shifted")
        ]
        cells += [
            _signed(here["margin_lost"].get(form), intervals) for form in ("own", "minus_other")
        ]
        cells += [
            _signed(there.get("contrast_lost", {}).get(form), intervals)
            for form in ("own", "minus_other")
        ]
        cells += [_plain(curves.get(metric), intervals) for metric in ("insertion", "deletion")]
        rows[name] = [*cells, str(document["blank"][name])]
    return rows


def _signed(value: Mapping[str, float] | None, interval: bool) -> str:
    return _number(value, interval, "+.3f")


def _share(value: Mapping[str, float] | None, interval: bool) -> str:
    return _number(value, interval, ".0%")


def _plain(value: Mapping[str, float] | None, interval: bool) -> str:
    return _number(value, interval, ".3f")


def _number(value: Mapping[str, float] | None, interval: bool, form: str) -> str:
    if value is None:
        return "-"
    text = format(value["mean"], form)
    if not interval:
        return text
    return f"{text} ({format(value['low'], form)} to {format(value['high'], form)})"


def contact_sheet(shown: Sequence[Shown]) -> Image:
    """One row for each picture: itself, then each method's map over it; `uint8 [H, W, 3]` RGB."""
    return np.vstack([_row(each) for each in shown])


def _row(shown: Shown) -> Image:
    picture = _tile(shown.image)
    tiles = [draw_caption(picture, shown.caption)]
    height, width = picture.shape[:2]
    for name, heat in shown.maps.items():
        low = 0.0 if name in shown.evidence else float(heat.min())
        positive = np.maximum(heat - low, 0)
        greatest = float(positive.max())
        scaled = positive / greatest if greatest > 0 else positive
        frame = (width, height)
        painted = heatmap_on_frame(scaled, Affine(1.0, 1.0, 0.0, 0.0), frame, frame)
        caption = name if greatest > 0 else f"{name}: blank"
        tiles.append(draw_caption(overlay(picture, painted), caption))
    return np.hstack(tiles)


def _tile(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
