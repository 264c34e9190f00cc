"""The bank as a picture: its rows in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.text import printable, shorten

MapMethod = Literal["tsne", "pca"]
MAP_METHODS: tuple[MapMethod, ...] = get_args(MapMethod)
MAP_SUFFIXES = (".png", ".svg", ".pdf")

_MOST_POINTS = 5000
_MOST_NAMES = 40
_NAME_LENGTH = 28
_PERPLEXITY = 30.0


@dataclass(frozen=True)
class BankMap:
    """A bank's rows on a plane.

    Attributes:
        points: `float64 [m, 2]`.
        rows: `int64 [m]`, which rows they are.
        method: how they got there.
        shown: share of the embeddings' variance along the two axes; None for t-SNE, whose
            distances are not to scale.
    """

    points: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    method: MapMethod
    shown: float | None


def bank_map(bank: Bank, method: MapMethod = "tsne", seed: int = 0) -> BankMap:
    """Lay a bank's embeddings out on a plane.

    Args:
        method: `tsne` keeps neighbours together (van der Maaten and Hinton 2008); `pca` is a
            projection, to scale.
    """
    from sklearn.decomposition import PCA

    if bank.rows < 3:
        raise FoldcamError(f"A map needs three rows at least, and the bank has {bank.rows}.")
    rows = np.arange(bank.rows)
    if bank.rows > _MOST_POINTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_POINTS, replace=False))
    embeddings = bank.embeddings[rows].astype(np.float64)
    if method == "pca":
        pca = PCA(2, random_state=seed)
        return BankMap(
            pca.fit_transform(embeddings), rows, method, float(pca.explained_variance_ratio_.sum())
        )
    from sklearn.manifold import TSNE

    layout = TSNE(
        perplexity=min(_PERPLEXITY, (len(rows) - 1) / 3), init="pca", random_state=seed, n_jobs=1
    )
    return BankMap(layout.fit_transform(embeddings).astype(np.float64), rows, method, None)


def draw_map(bank: Bank, layout: BankMap, path: Path) -> None:
    """Draw the map, labels named at their middles, or values as colours."""
    if path.suffix.lower() not in MAP_SUFFIXES:
        raise FoldcamError(f"--map {path}: a map is a {', '.join(MAP_SUFFIXES)} file.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if bank.outcome is not None:
        values = bank.outcome.in_units()[layout.rows]
        drawn = axes.scatter(
            layout.points[:, 0], layout.points[:, 1], c=values, s=14, cmap="viridis", linewidths=0
        )
        figure.colorbar(drawn, ax=axes, label="value")
    else:
        _draw_labels(figure, axes, bank, layout)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("0.8")
    how = (
        "t-SNE: neighbours stay together, distances are not to scale"
        if layout.shown is None
        else f"PCA: {layout.shown:.0%} of the variance"
    )
    part = "" if len(layout.rows) == bank.rows else f"{len(layout.rows):,} of "
    axes.set_title(f"{part}{bank.rows:,} rows  ({how})", fontsize=10, color="0.25")
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _draw_labels(figure: Any, axes: Any, bank: Bank, layout: BankMap) -> None:
    from matplotlib import colormaps

    names = np.asarray(bank.row_labels(), object)[layout.rows]
    distinct, counts = np.unique(names.astype(str), return_counts=True)
    named = set(distinct[np.argsort(-counts, kind="stable")][:_MOST_NAMES])
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(distinct)))
    texts = []
    for name, color in zip(distinct, colors, strict=True):
        mine = layout.points[names == name]
        axes.scatter(mine[:, 0], mine[:, 1], color=color, s=16, linewidths=0, alpha=0.8)
        if name in named:
            middle = np.median(mine, axis=0)
            texts.append(
                axes.text(
                    *middle,
                    # A dollar sign would start a formula.
                    shorten(printable(name), _NAME_LENGTH).replace("$", r"\$"),
                    fontsize=8,
                    ha="center",
                    va="center",
                    bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": color, "alpha": 0.85},
                )
            )
    _spread(figure, axes, texts)


def _spread(figure: Any, axes: Any, texts: list[Any]) -> None:
    """Move names apart, upwards and downwards, until none covers another."""
    figure.draw_without_rendering()
    placed: list[Any] = []
    for text in sorted(texts, key=lambda each: -each.get_position()[1]):
        x, y = axes.transData.transform(text.get_position())
        box = text.get_window_extent().padded(4)
        step = box.height
        for turn in range(2 * len(texts) + 1):
            shift = step * ((turn + 1) // 2) * (-1) ** turn
            moved = box.translated(0, shift)
            if not any(moved.overlaps(other) for other in placed):
                text.set_position(axes.transData.inverted().transform((x, y + shift)))
                placed.append(moved)
                break
