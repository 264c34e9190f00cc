"""What an evaluation leaves behind: JSON, a Markdown table, a plot, contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.figure import captioned, heated, new_figure, save_figure
from foldcam.benchmarks.evaluation.localization.evaluate import LocalizationResult
from foldcam.benchmarks.evaluation.localization.methods import METHODS, REFERENCE, TRANSFERRED
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing, heat_in_box
from foldcam.benchmarks.evaluation.localization.subjects import Subjects
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Image

# Column -> heading and whether low is good.
METRICS: dict[str, tuple[str, bool]] = {
    "grid_pointing": ("grid 2x2", False),
    "grid_pointing_maps": ("grid maps", False),
    "grid_pointing_3x3": ("grid 3x3", False),
    "insertion": ("insertion", False),
    "deletion": ("deletion", True),
    "pixel_ap": ("pixel AP", False),
    "max_box_acc": ("MaxBoxAcc", False),
    "max_box_acc_v2": ("MaxBoxAccV2", False),
    "max_box_acc_frozen": ("MaxBoxAcc frozen", False),
    "max_box_acc_v2_frozen": ("V2 frozen", False),
    "pointing": ("pointing", False),
    "heat_in_box": ("heat in box", False),
}
_TILE = 180


def text_table(document: Mapping[str, Any]) -> str:
    """The methods as plain text for a terminal: value of each metric."""
    lines = [" " * 28 + " ".join(f"{METRICS[m][0][:11]:>11}" for m in METRICS)]
    for name in METHODS:
        row = document["methods"][name]
        lines.append(f"{name:<28}" + " ".join(_number(row.get(m)) for m in METRICS))
    lines.append("")
    lines.append("transferred minus each (95 % paired bootstrap interval)")
    for name in METHODS[1:]:
        row = document["differences"][name]
        parts = [
            f"{METRICS[m][0]} {row[m]['mean']:+.3f} [{row[m]['low']:+.3f}, {row[m]['high']:+.3f}]"
            for m in ("grid_pointing", "insertion", "deletion", "pixel_ap", "max_box_acc_v2")
            if m in row
        ]
        lines.append(f"{name:<28}" + "  ".join(parts))
    return "\n".join(lines)


def markdown_table(document: Mapping[str, Any], metrics: Sequence[str] = tuple(METRICS)) -> str:
    """The methods as Markdown, each value with its interval."""
    heads = [METRICS[m][0] + (" ↓" if METRICS[m][1] else " ↑") for m in metrics]
    rows = []
    for name in METHODS:
        row = document["methods"][name]
        shown = f"**{name}**" if name == TRANSFERRED else name
        rows.append([shown, *(_cell(row.get(m), markdown.interval) for m in metrics)])
    return markdown.table(["method", *heads], rows)


def markdown_differences(
    document: Mapping[str, Any], metrics: Sequence[str] = tuple(METRICS)
) -> str:
    """Transferred minus each method, as Markdown; bold where the interval excludes zero."""
    rows = []
    for name in METHODS[1:]:
        row = document["differences"][name]
        rows.append([name, *(_cell(row.get(m), markdown.difference) for m in metrics)])
    return markdown.table(["transferred minus", *(METRICS[m][0] for m in metrics)], rows)


def plot_methods(path: Path, document: Mapping[str, Any]) -> None:
    """Bars of the main metrics with their intervals, one panel each."""
    shown = ("grid_pointing", "insertion", "deletion", "pixel_ap", "max_box_acc_v2", "heat_in_box")
    figure, axes = new_figure(2, 3, figsize=(13, 7), sharey=True)
    names = list(reversed(METHODS))
    for axis, metric in zip(axes.flat, shown, strict=True):
        if metric not in document["methods"][TRANSFERRED]:
            axis.set_title(f"{METRICS[metric][0]}: undefined")
            continue
        rows = [document["methods"][name][metric] for name in names]
        means = np.asarray([row["mean"] for row in rows])
        errors = [
            means - [row["low"] for row in rows],
            np.asarray([row["high"] for row in rows]) - means,
        ]
        colors = ["#d1495b" if name in (TRANSFERRED, REFERENCE) else "#8d99ae" for name in names]
        axis.barh(names, means, xerr=np.maximum(errors, 0), color=colors, capsize=3)
        low = ", low is good" if METRICS[metric][1] else ""
        axis.set_title(METRICS[metric][0] + low)
        axis.set_xlim(0, 1)
    save_figure(figure, path, dpi=110)


def write_sheets(folder: Path, test: Subjects, result: LocalizationResult) -> list[Path]:
    """Contact sheets: best, typical and worst images by share of heat, and the grids."""
    maps = result.heatmaps
    size = test.resized[0].shape[:2]
    shares = [
        heat_in_box(heat, box, (size[0], size[1]))
        for heat, box in zip(maps[TRANSFERRED], test.boxes, strict=True)
    ]
    order = np.argsort(shares)
    middle = len(order) // 2
    groups = {
        "best": order[::-1][:8],
        "typical": order[max(0, middle - 4) : middle + 4],
        "worst": order[:8],
    }
    compared = (TRANSFERRED, "one_triplet_gradcam", "proxy_map", "mean_activation")
    paths = []
    for name, chosen in groups.items():
        rows = [
            _row(test, maps, int(number), compared, f"{shares[int(number)]:.0%} in box")
            for number in chosen
        ]
        paths.append(folder / f"{name}.png")
        write_image(paths[-1], np.vstack(rows))
    pointed = [
        (grid_pointing(heat, grid.side, grid.side, grid.cell), grid, image, heat)
        for grid, image, heat in result.grids
    ]
    pointed.sort(key=lambda item: item[0])
    picked = [
        *pointed[: min(4, len(pointed))],
        *pointed[len(pointed) // 2 :][:4],
        *pointed[-4:],
    ]
    tiles = []
    for value, grid, image, heat in picked:
        shown = heated(image, heat)
        height, width = image.shape[:2]
        row, column = divmod(grid.cell, grid.side)
        corner = (column * width // grid.side, row * height // grid.side)
        other = ((column + 1) * width // grid.side - 1, (row + 1) * height // grid.side - 1)
        cv2.rectangle(shown, corner, other, (255, 255, 255), 3)
        tiles.append(captioned(shown, _TILE, f"{value:.0%} in the asked cell"))
    rows = [np.hstack(tiles[start : start + 4]) for start in range(0, len(tiles) - 3, 4)]
    paths.append(folder / "grids.png")
    write_image(paths[-1], np.vstack(rows))
    return paths


def _row(
    test: Subjects, maps: Mapping[str, Any], number: int, names: Sequence[str], caption: str
) -> Image:
    image = test.resized[number].copy()
    x0, y0, x1, y1 = (round(float(value)) for value in test.boxes[number])
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (255, 255, 255), 2)
    tiles = [captioned(image, _TILE, f"{test.labels[number]}: {caption}")]
    tiles += [
        captioned(heated(test.resized[number], maps[name][number]), _TILE, name) for name in names
    ]
    return np.hstack(tiles)


def _number(value: Mapping[str, float] | None) -> str:
    return f"{'undefined':>11}" if value is None else f"{value['mean']:>11.3f}"


def _cell(value: Mapping[str, float] | None, written: Callable[[Mapping[str, float]], str]) -> str:
    return "undefined" if value is None else written(value)
