"""What the evaluation leaves behind: JSON, Markdown tables, a scatter plot, a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import write_json, write_text
from foldcam.benchmarks.evaluation.figure import captioned, new_figure, save_figure
from foldcam.benchmarks.evaluation.houses.estimates import (
    FOLDED,
    LOW_IS_GOOD,
    METHODS,
    METRICS,
    Answers,
    Doubles,
)
from foldcam.benchmarks.evaluation.houses.houses import KINDS, House
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Affine, Image
from foldcam.runtime.model.drawing.overlay import heatmap_on_frame, overlay_both
from foldcam.runtime.system.text import number_text

ALL_KINDS = ("combined", *KINDS)
_HEADINGS = {
    "median_absolute_percentage_error": "MdAPE",
    "r2_log": "R2 (log price)",
    "r2": "R2 (price)",
    "rank_correlation": "rank correlation",
}
_MASKS = {
    "raising": "raising cells blurred",
    "random": "random cells",
    "other_raising": "raising cells of another house",
    "lowering": "lowering cells blurred",
    "other_lowering": "lowering cells of another house",
}
_MASK_DIFFERENCES = (
    *("raising_minus_random", "raising_minus_other"),
    *("lowering_minus_random", "lowering_minus_other"),
)
_MASK_RATES = (
    *("raising_below_random", "raising_below_other"),
    *("lowering_above_random", "lowering_above_other"),
)
_TILE = 150
_SHOWN_HOUSES = 4


@dataclass(frozen=True, eq=False)
class Shown:
    """What the pictures show."""

    houses: Sequence[House]  # the test houses
    answers: Mapping[str, Answers]  # kind -> the folded model's answers for them
    estimates: Mapping[str, Doubles]  # kind, and `combined` -> log estimates `float64 [H]`


def write_report(out: Path, document: Mapping[str, Any], shown: Shown) -> None:
    """Write `house-price.json`, `.md` and `.png`, and `contact-sheet.jpg`."""
    plot_estimates(out / "house-price.png", shown)
    write_image(out / "contact-sheet.jpg", contact_sheet(shown))
    tables = [markdown_methods(document), markdown_differences(document)]
    tables += [markdown_masking(document), markdown_mask_differences(document)]
    write_text(out / "house-price.md", "\n\n".join(tables) + "\n")
    # Last, so that it stands for all of them.
    write_json(out / "house-price.json", document)


def text_table(document: Mapping[str, Any]) -> str:
    """The document as plain text for a terminal."""
    names = list(_HEADINGS)
    lines = ["Price estimates of held-out houses (95 % intervals: see house-price.md)"]
    for kind in ALL_KINDS:
        lines.append(f"\n{kind:<18}" + "".join(f"{_HEADINGS[name]:>18}" for name in names))
        for method in METHODS:
            row = document["methods"][method][kind]
            cells = []
            for name in names:
                versus = document["differences"].get(method)
                mark = {"better": "+", "worse": "-", "open": " "}
                sign = mark[versus[kind][name]["verdict"]] if versus else " "
                cells.append(f"{row[name]['mean']:>17.3f}{sign}")
            lines.append(f"{method:<18}" + "".join(cells))
    lines.append("+ folded is better and - folded is worse than this, the interval excluding zero")
    lines.append(f"\nChange of the log estimate where {document['masked_share']:.0%} of the cells "
                 "are blurred")  # fmt: skip
    for name in (*_MASKS, *_MASK_DIFFERENCES, *_MASK_RATES):
        value = document["masking"]["all"][name]
        lines.append(
            f"{name:<24}{value['mean']:>+8.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]"
        )
    return "\n".join(lines)


def markdown_methods(document: Mapping[str, Any]) -> str:
    """Every method on every kind, each value with its interval."""
    heads = [f"{title} {'↓' if name in LOW_IS_GOOD else '↑'}" for name, title in _HEADINGS.items()]
    rows = []
    for kind in ALL_KINDS:
        for method in METHODS:
            row = document["methods"][method][kind]
            shown = f"**{method}**" if method == FOLDED else method
            rows.append([kind, shown, *(markdown.interval(row[name]) for name in METRICS)])
    return markdown.table(["photograph", "method", *heads], rows)


def markdown_differences(document: Mapping[str, Any]) -> str:
    """Folded minus each other method; the verdict where the interval excludes zero."""
    rows = [
        [kind, method, *(_difference(kinds[kind][name]) for name in METRICS)]
        for kind in ALL_KINDS
        for method, kinds in document["differences"].items()
    ]
    return markdown.table(["photograph", "folded minus", *_HEADINGS.values()], rows)


def markdown_masking(document: Mapping[str, Any]) -> str:
    """Change of the log estimate under each mask, per kind and over all."""
    kinds = [*KINDS, "all"]
    rows = [
        [title, *(markdown.interval(document["masking"][kind][name], "+.3f") for kind in kinds)]
        for name, title in _MASKS.items()
    ]
    return markdown.table(["change of the log estimate", *kinds], rows)


def markdown_mask_differences(document: Mapping[str, Any]) -> str:
    """Masks against their controls, and how often the sign is right."""
    kinds = [*KINDS, "all"]
    rows = []
    for name in (*_MASK_DIFFERENCES, *_MASK_RATES):
        form = "+.3f" if name in _MASK_DIFFERENCES else ".3f"
        cells = [markdown.interval(document["masking"][kind][name], form) for kind in kinds]
        rows.append([name.replace("_", " "), *cells])
    return markdown.table(["difference, or share of photographs", *kinds], rows)


def plot_estimates(path: Path, shown: Shown) -> None:
    """Estimate against price, one panel per kind, both axes logarithmic."""
    prices = np.array([house.price for house in shown.houses])
    figure, axes = new_figure(1, len(ALL_KINDS), figsize=(16, 3.6), sharex=True, sharey=True)
    ends = [prices.min() / 1.2, prices.max() * 1.2]
    for axis, kind in zip(axes, ALL_KINDS, strict=True):
        axis.plot(ends, ends, color="#8d99ae", linewidth=1)
        axis.scatter(prices, np.exp(shown.estimates[kind]), s=14, color="#d1495b", alpha=0.7)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(kind)
        axis.set_xlabel("price")
    axes[0].set_ylabel("estimate")
    save_figure(figure, path, dpi=110)


def contact_sheet(shown: Shown) -> Image:
    """The dearest and the cheapest test houses, a row each: photographs and overlays."""
    order = np.argsort([-house.price for house in shown.houses], kind="stable")
    count = min(_SHOWN_HOUSES, len(order) // 2)
    return np.vstack([_row(shown, int(n)) for n in [*order[:count], *order[-count:]]])


def _row(shown: Shown, number: int) -> Image:
    house = shown.houses[number]
    estimate = number_text(float(np.exp(shown.estimates["combined"][number])))
    tiles = []
    for kind in KINDS:
        image = shown.answers[kind].images[number]
        value = number_text(float(np.exp(shown.estimates[kind][number])))
        tiles.append(captioned(image, _TILE, kind))
        tiles.append(captioned(_painted(shown.answers[kind], number), _TILE, value))
    row = np.hstack(tiles)
    title = np.full((26, row.shape[1], 3), 24, np.uint8)
    text = f"house {house.name}: price {number_text(house.price)}, estimate {estimate}"
    cv2.putText(
        title, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA
    )
    return np.vstack([title, row])


def _painted(answers: Answers, number: int) -> Image:
    image, result = answers.images[number], answers.results[number]
    height, width = image.shape[:2]
    assert result.heatmap_lower is not None
    same = Affine(1.0, 1.0, 0.0, 0.0)
    raising, lowering = (
        heatmap_on_frame(heat, same, (width, height), (width, height))
        for heat in (result.heatmap, result.heatmap_lower)
    )
    return overlay_both(image, raising, lowering)


def _difference(value: Mapping[str, Any]) -> str:
    text = markdown.interval(value, "+.3f")
    return text if value["verdict"] == "open" else f"{text}, **{value['verdict']}**"
