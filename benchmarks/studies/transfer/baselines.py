"""What a contribution is compared with, and whose gradient weights it: measured on summands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import intervals_document
from foldcam.benchmarks.evaluation.explanation.damage import (
    CONTROLS,
    SHARES,
    Scorer,
    blank_maps,
    blurred,
    controlled,
    other_pictures,
    ranks_of,
)
from foldcam.benchmarks.evaluation.explanation.report import HEADLINE, losses
from foldcam.benchmarks.evaluation.explanation.subject import View
from foldcam.benchmarks.evaluation.graphs import plain_graph
from foldcam.benchmarks.evaluation.localization.evaluate import (
    Runner,
    Scores,
    differences,
    per_subject,
)
from foldcam.benchmarks.evaluation.localization.methods import Methods
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing
from foldcam.benchmarks.evaluation.localization.perturbation import photograph_window
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, draw_grids, grid_image
from foldcam.export.banks.bank import Bank
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.runtime.contract.schema import EMBEDDING
from foldcam.runtime.images.preprocess import Image, Preprocessing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

MAPS = {
    "by mean": "spatial mean of the gradient at the last activation",
    "none": "summands, compared with nothing",
    "mean": "summands minus those of the average training picture",
    "none, own": "summands, the image's own gradient",
    "mean, own": "summands minus the average, the image's own gradient",
}
"""The maps that are compared; where the head is linear, the image's own gradient is the
transferred one, and the last two are left out."""

MEASURES = {
    "grid_pointing": "grid 2x2 ↑",
    "insertion": "insertion ↑",
    "deletion": "deletion ↓",
    "contrast_lost": "contrast lost beyond another's ↑",
}

PAIRS = (
    *(("mean", "none"), ("mean, own", "none, own")),
    *(("none, own", "none"), ("mean, own", "mean")),
    *((name, "by mean") for name in MAPS if name != "by mean"),
)
"""Differences that are reported: of the baseline, of the gradient, and to today's map."""

_BATCH = 16
_GRID_REPEATS = 2


class Explainer:
    """The signed maps of one cut of a network: at its summands, or at its last activation.

    Args:
        own: whether the image's own gradient is asked for as well.
    """

    def __init__(self, network: Network, bank: Bank, own: bool) -> None:
        self._network, self._bank, self._own = network, bank, own
        self._methods = Methods(network, bank)
        self._at_sum = network.summands != "none"

    def maps(self, activations: Activations, rows: Integers) -> dict[str, Floats]:
        """Map -> `float32 [N, h, w]`, signed, for the bank row that is asked of each image."""
        feature_map = activations.feature_map.numpy()
        transferred = self._bank.row_grad_weights()[rows]
        if not self._at_sum:
            return {"by mean": _signed(transferred, feature_map)}
        mean = self._bank.mean_summands
        assert mean is not None
        found = {
            "none": _signed(transferred, feature_map),
            "mean": _signed(transferred, feature_map - mean),
        }
        if self._own:
            directions = torch.from_numpy(self._methods.direction(rows))
            own = self._network.pull_back(activations, directions).numpy()
            found["none, own"] = _signed(own, feature_map)
            found["mean, own"] = _signed(own, feature_map - mean)
        return found


class Pictures:
    """Pictures to be explained, and the network that looks at changed ones.

    Args:
        rows: `int64 [N]`, the nearest bank row of each.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        queries: Subjects,
        rows: Integers,
        seed: int,
    ) -> None:
        self.queries, self.rows, self.seed = queries, rows, seed
        self._preprocessing = preprocessing
        self._plain = GraphSession(plain_graph(network.to_onnx()), [EMBEDDING])
        self.grids = draw_grids(queries.labels, 2, _GRID_REPEATS, seed)

    def __len__(self) -> int:
        return len(self.queries)

    def embed(self, images: Sequence[Image]) -> Floats:
        """`float32 [N, D]`, as the network returns them."""
        parts = []
        for start in range(0, len(images), _BATCH):
            block = np.stack(images[start : start + _BATCH])
            parts.append(self._plain.run(self._preprocessing.normalized(block))[0])
        return np.concatenate(parts)

    def view(self, number: int) -> View:
        """A picture as the network is shown it."""
        whole = self.queries.images[number]
        image, affine = self._preprocessing.resized(whole)
        frame, size = whole.shape[1::-1], (self._preprocessing.width, self._preprocessing.height)
        return View(image, photograph_window(affine, (frame[0], frame[1]), size), "")

    def grid_images(self) -> list[Image]:
        """The grids as pictures."""
        images = self.queries.images
        return [grid_image(grid, images, self._preprocessing) for grid in self.grids]


def signed_maps(
    explainers: Sequence[Explainer], runners: Sequence[Runner], pictures: Pictures
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Signed maps of the pictures and of the grids: two times map -> `float32 [N, h, w]`.

    Each grid is asked for the row of its asked picture. Transferred grad-weights are then those
    of the single picture; the own ones are taken at the grid itself.
    """
    asked = pictures.rows[[grid.asked for grid in pictures.grids]]
    singles: dict[str, Floats] = {}
    grids: dict[str, Floats] = {}
    for explainer, runner in zip(explainers, runners, strict=True):
        singles |= _maps(explainer, runner, pictures.queries.resized, pictures.rows)
        grids |= _maps(explainer, runner, pictures.grid_images(), asked)
    # In the order of the table.
    return {n: singles[n] for n in MAPS if n in singles}, {n: grids[n] for n in MAPS if n in grids}


def measured(
    bank: Bank,
    pictures: Pictures,
    singles: Mapping[str, Floats],
    grids: Mapping[str, Floats],
    draws: int,
    progress: Progress,
) -> dict[str, Any]:
    """Every measure of every map, and their paired differences.

    Perturbations follow the order of the signed map, so that no map has more equal cells than
    another because its negative part was cut off; grids take the positive part, as shown.

    Args:
        singles, grids: from `signed_maps`.

    Returns:
        `maps`: map -> measure -> interval; `differences`: `"a minus b"` -> measure -> interval;
        `blank`: map -> pictures whose map has nothing positive.
    """
    others = other_pictures(pictures.queries.labels, pictures.seed)
    ranks = {
        name: controlled(ranks_of(maps, True, pictures.seed), others)
        for name, maps in singles.items()
    }
    damage, curves = blurred(
        pictures, Scorer(bank), pictures.view, pictures.queries.labels, ranks, progress
    )
    step = SHARES.index(HEADLINE)
    own, other = CONTROLS.index("own"), CONTROLS.index("other")
    scores = {name: Scores(len(pictures)) for name in singles}
    for name, score in scores.items():
        heats = np.maximum(grids[name], 0)
        pointed = [
            grid_pointing(heat, 2, 2, grid.cell)
            for grid, heat in zip(pictures.grids, heats, strict=True)
        ]
        score.add_values("grid_pointing", per_subject(pictures.grids, pointed, len(pictures)))
        score.add_curves(curves[name])
        lost = losses(damage, name, "contrast_lost")[:, step]
        score.add_values("contrast_lost", lost[:, own] - lost[:, other])
    pairs = [(a, b) for a, b in PAIRS if a in scores and b in scores]
    found = {f"{a} minus {b}": differences(scores[a], {b: scores[b]}, draws)[b] for a, b in pairs}
    return {
        "maps": intervals_document({n: score.intervals(draws) for n, score in scores.items()}),
        "differences": intervals_document(found),
        "blank": {name: int(blank_maps(maps, True).sum()) for name, maps in singles.items()},
    }


def compared(
    cuts: Sequence[tuple[Network, Bank]],
    preprocessing: Preprocessing,
    queries: Subjects,
    rows: Integers,
    *,
    seed: int,
    draws: int = 2000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare the maps of a network cut at its last activation and at its summands.

    Args:
        cuts: the two networks with their banks, of the same rows in the same order; the first alone
            where the embedding is no function of one sum over positions.
        rows: `int64 [N]`, the nearest bank row of each.

    Returns:
        See `measured`, with `kind` (see `SummandKind`), `linear`, and `notes` of the cut.
    """
    network, bank = cuts[-1]
    runners = [Runner(n, Methods(n, b), preprocessing, seed) for n, b in cuts]
    linear = network.head_is_linear(runners[-1].activations(queries.resized[:_BATCH]))
    explainers = [Explainer(n, b, own=not linear) for n, b in cuts]
    pictures = Pictures(network, preprocessing, queries, rows, seed)
    singles, grids = signed_maps(explainers, runners, pictures)
    return {
        "kind": network.summands,
        "linear": linear,
        "notes": list(network.notes),
        **measured(bank, pictures, singles, grids, draws, progress or (lambda *_: None)),
    }


def markdown_maps(heads: Mapping[str, Any]) -> str:
    """Head and map -> value of each measure, as Markdown."""
    rows = []
    for head, row in heads.items():
        for name in (each for each in MAPS if each in row["maps"]):
            cells = [markdown.interval(row["maps"][name][measure]) for measure in MEASURES]
            rows.append([head, row["kind"], name, *cells, str(row["blank"][name])])
    return markdown.table(["head", "sum", "map", *MEASURES.values(), "blank"], rows)


def markdown_differences(heads: Mapping[str, Any]) -> str:
    """Head and pair -> difference of each measure; bold where the interval excludes zero.

    Of an average pool the summands are the last activation: what would be zero, or say the same
    twice, is left out.
    """
    rows = []
    for head, row in heads.items():
        said = {" | ".join([markdown.difference(dict.fromkeys(("mean", "low", "high"), 0.0))] * 4)}
        for pair in (f"{a} minus {b}" for a, b in PAIRS):
            values = row["differences"].get(pair)
            if values is None:
                continue
            cells = [markdown.difference(values[measure]) for measure in MEASURES]
            what = " | ".join(cells).replace("-0.000", "+0.000")
            if what not in said:
                rows.append([head, pair, *cells])
            said.add(what)
    return markdown.table(["head", "difference", *MEASURES.values()], rows)


def _maps(
    explainer: Explainer, runner: Runner, images: Sequence[Image], rows: Integers
) -> dict[str, Floats]:
    parts: list[dict[str, Floats]] = []
    for start in range(0, len(images), _BATCH):
        activations = runner.activations(images[start : start + _BATCH])
        parts.append(explainer.maps(activations, rows[start : start + _BATCH]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _signed(grad_weights: Floats, feature_map: Floats) -> Floats:
    """`sum_k a_k S_k`: `[N, K]` and `[N, K, h, w]` -> `float32 [N, h, w]`."""
    signed: Floats = np.einsum("nk,nkhw->nhw", grad_weights, feature_map)
    return signed
