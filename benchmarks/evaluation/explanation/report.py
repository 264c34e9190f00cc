"""What a study of the heat reports: losses with intervals, a table, a verdict, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.bootstrap import (
    IndexStatistic,
    bootstrap,
    bootstrap_of,
)
from foldcam.benchmarks.evaluation.documents import interval_document, write_json, write_text
from foldcam.benchmarks.evaluation.explanation.damage import CONTROLS, SCORES, SHARES, Damage
from foldcam.benchmarks.evaluation.figure import heated
from foldcam.benchmarks.evaluation.localization.perturbation import CurvePool, PerturbationCurves
from foldcam.runtime.contract.explanation import FEW_CELLS
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.drawing.text import draw_caption

Doubles = npt.NDArray[np.float64]

MEASURES = ("contrast_lost", "label_lost", "margin_lost")
HEADLINE = 0.2
"""The share of cells that tables and verdict speak of."""

_CONTRAST, _MARGIN, _RIGHT = (SCORES.index(name) for name in ("contrast", "margin", "right"))


def losses(damage: Damage, name: str, measure: str) -> Doubles:
    """`float64 [N, shares, controls]`: what one method's maps and their controls cost.

    Labels are lost only where they are right before: there N is smaller.

    Args:
        measure: one of `MEASURES`.
    """
    after = damage.after[name]
    if measure == "label_lost":
        right = damage.before[:, _RIGHT] > 0
        lost: Doubles = 1.0 - after[right][..., _RIGHT]
        return lost
    score = _CONTRAST if measure == "contrast_lost" else _MARGIN
    return np.asarray(damage.before[:, None, None, score] - after[..., score])


def damage_document(damage: Damage, draws: int) -> dict[str, Any]:
    """Method -> share in percent -> measure -> interval of the losses and of their differences.

    Keys of the last: each of `CONTROLS`, `minus_other` and `minus_shifted`. A measure without a
    picture (no label is right) is left out.
    """
    return {
        name: {
            percent(share): {
                measure: _compared(found[:, step], draws)
                for measure in MEASURES
                if len(found := losses(damage, name, measure))
            }
            for step, share in enumerate(SHARES)
        }
        for name in damage.after
    }


def versus_document(damage: Damage, draws: int) -> dict[str, Any]:
    """The first method's losses minus those of each other method: method -> measure -> interval."""
    first, *others = damage.after
    step = SHARES.index(HEADLINE)
    return {
        name: {
            measure: interval_document(
                bootstrap(ours[:, step, 0] - losses(damage, name, measure)[:, step, 0], draws=draws)
            )
            for measure in MEASURES
            if len(ours := losses(damage, first, measure))
        }
        for name in others
    }


def curves_document(
    curves: Mapping[str, Sequence[PerturbationCurves]], draws: int
) -> dict[str, Any]:
    """Method -> `insertion` and `deletion`.

    Left out where pictures that are blurred as a whole have no less contrast, on all pictures or
    on some resample of them: there is then nothing to take a share of.
    """
    document = {}
    for name, found in curves.items():
        pool = CurvePool(found)
        try:
            document[name] = {
                metric: interval_document(bootstrap_of(_area(pool, place), len(found), draws))
                for place, metric in enumerate(("insertion", "deletion"))
            }
        except ValueError:
            continue  # undefined on these pictures, or on some that are drawn from them
    return document


def percent(share: float) -> str:
    """`20` of 0.2."""
    return f"{100 * share:.0f}"


def _compared(values: Doubles, draws: int) -> dict[str, Any]:
    """Of losses `float64 [N, controls]`."""
    columns = {name: values[:, place] for place, name in enumerate(CONTROLS)}
    for name in CONTROLS[1:]:
        columns[f"minus_{name}"] = columns["own"] - columns[name]
    return {
        name: interval_document(bootstrap(column, draws=draws)) for name, column in columns.items()
    }


def _area(pool: CurvePool, place: int) -> IndexStatistic:
    return lambda drawn: pool.areas(drawn)[place]


_TILE = 176
# Maps that are asked nothing, for the verdict.
_SAYS_NOTHING = {
    "mean_activation": "mean activation (asks nothing)",
    "centre": "a blob in the middle (never saw the picture)",
}
_STEP = percent(HEADLINE)


class Column(NamedTuple):
    """A column of the tables."""

    heading: str
    short: str  # two lines of it for a terminal, empty where it is not shown there
    path: str  # where its intervals lie: the part of the document, and the keys below a method
    form: str


COLUMNS = (
    Column("contrast lost", "contrast/lost", "picture.20.contrast_lost.own", "+.3f"),
    Column("minus another's map", "minus/other's", "picture.20.contrast_lost.minus_other", "+.3f"),
    Column(
        "minus its map shifted", "minus/shifted", "picture.20.contrast_lost.minus_shifted", "+.3f"
    ),
    Column("labels lost", "labels/lost", "picture.20.label_lost.own", ".0%"),
    Column("by another's map", "by/other's", "picture.20.label_lost.other", ".0%"),
    Column("by its map shifted", "by/shifted", "picture.20.label_lost.shifted", ".0%"),
    Column("margin lost", "", "picture.20.margin_lost.own", "+.3f"),
    Column(
        "margin: minus another's map",
        "margin:/-other's",
        "picture.20.margin_lost.minus_other",
        "+.3f",
    ),
    Column("on the feature map: contrast lost", "", "on_feature_map.20.contrast_lost.own", "+.3f"),
    Column(
        "on the feature map: minus another's",
        "on map:/-other's",
        "on_feature_map.20.contrast_lost.minus_other",
        "+.3f",
    ),
    Column("insertion", "inser-/tion", "curves.insertion", ".3f"),
    Column("deletion", "dele-/tion", "curves.deletion", ".3f"),
)


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture for the contact sheet."""

    image: Image  # `uint8 [H, W, 3]`, as the network is shown it
    caption: str  # what to say of it
    maps: Mapping[str, npt.NDArray[np.float32]]  # method -> `float32 [h, w]`
    evidence: frozenset[str]  # methods whose maps say nothing where they are not positive


def verdict(document: Mapping[str, Any]) -> str:
    """Whether the heat of the folded model is worth something, in plain words."""
    name = document["methods"][0]
    found = document["picture"][name][_STEP]
    return " ".join([_worth(found["contrast_lost"]), _labels(document, name)])


def _worth(found: Mapping[str, Any]) -> str:
    other, shifted = found["minus_other"], found["minus_shifted"]
    more = (
        f"{other['mean']:.3f} of contrast more"
        if other["mean"] > 0
        else f"no more contrast ({other['mean']:.3f})"
    )
    judgement = "The heat says next to nothing"
    if other["low"] > 0:
        judgement = "The heat is worth something"
    elif other["high"] < 0:
        judgement = "The heat names the wrong places"
    return (
        f"{judgement}: blurring its hottest {_STEP} % costs {more} than blurring what another "
        f"picture's map names (95 % interval of the difference {_range(other)}), and "
        f"{shifted['mean']:.3f} more than its own map shifted ({_range(shifted)})."
    )


def _labels(document: Mapping[str, Any], name: str) -> str:
    images = document["images"]
    if not images["right"]:
        return f"No label of the {images['test']} pictures is right to begin with."
    own = document["picture"][name][_STEP]["label_lost"]
    parts = [
        f"{own['own']['mean']:.0%} by its own map",
        f"{own['other']['mean']:.0%} by another picture's",
        f"{own['shifted']['mean']:.0%} by its own shifted",
    ]
    for method, what in _SAYS_NOTHING.items():
        beside = document["picture"].get(method)
        if beside is not None:
            parts.append(f"{beside[_STEP]['label_lost']['own']['mean']:.0%} by {what}")
    return f"Labels lost of the {images['right']} that are right: {', '.join(parts)}."


def _range(value: Mapping[str, float]) -> str:
    return f"{value['low']:.3f} to {value['high']:.3f}"


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
    """One line for each method, the hottest fifth hidden, for a terminal."""
    shown = [column for column in COLUMNS if column.short]
    width = max(map(len, document["methods"])) + 1
    heads = list(zip(*(column.short.split("/") for column in shown), strict=True))
    rows = [("", [*heads[0], "blank"]), ("", [*heads[1], "maps"])]
    for name in document["methods"]:
        cells = [_number(_value(document, name, column), column.form) for column in shown]
        rows.append((name, [*cells, str(document["blank"][name])]))
    return "\n".join(
        f"{name:<{width}}" + "".join(f"{cell:>9}" for cell in cells) + f"{blank:>6}"
        for name, (*cells, blank) in rows
    )


def markdown_table(document: Mapping[str, Any]) -> str:
    """The same with intervals, as Markdown."""
    heads = ["method", *(column.heading for column in COLUMNS), "blank maps"]
    rows = []
    for name in document["methods"]:
        cells = [_interval(_value(document, name, column), column.form) for column in COLUMNS]
        rows.append([name, *cells, str(document["blank"][name])])
    return markdown.table(heads, rows)


def write_results(out: Path, document: Mapping[str, Any]) -> None:
    """Write `explanation.json` and `explanation.md`."""
    write_json(out / "explanation.json", document)
    notes = "".join(f"- {note}\n" for note in document["notes"])
    page = f"{document['verdict']}\n\n{markdown_table(document)}\n\n{notes}"
    write_text(out / "explanation.md", page)


def _value(document: Mapping[str, Any], name: str, column: Column) -> Mapping[str, float] | None:
    """The interval of a method in a column, None where it was not measured."""
    first, *rest = column.path.split(".")
    found = (document[first] or {}).get(name)
    for key in rest:
        found = None if found is None else found.get(key)
    return found


def _number(value: Mapping[str, float] | None, form: str) -> str:
    return "-" if value is None else format(value["mean"], form)


def _interval(value: Mapping[str, float] | None, form: str) -> str:
    return "-" if value is None else markdown.interval(value, form)


def contact_sheet(shown: Sequence[Shown]) -> Image:
    """One row for each picture: itself, then each method's map over it; `uint8 [H, W, 3]` RGB."""
    return np.vstack([_row(each) for each in shown])


def _row(shown: Shown) -> Image:
    picture = fitted(shown.image, _TILE, _TILE, enlarge=True)
    tiles = [draw_caption(picture, shown.caption)]
    for name, heat in shown.maps.items():
        low = 0.0 if name in shown.evidence else float(heat.min())
        positive = np.maximum(heat - low, 0)
        caption = name if positive.max() > 0 else f"{name}: blank"
        tiles.append(draw_caption(heated(picture, positive), caption))
    return np.hstack(tiles)
