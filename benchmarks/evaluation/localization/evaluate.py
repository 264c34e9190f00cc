"""Localization of every method on the same images, asked the same question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap_of, paired_bootstrap_of
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.localization.boxes import (
    FrozenLevels,
    box_accuracy,
    pixel_average_precision,
)
from foldcam.benchmarks.evaluation.localization.methods import (
    METHODS,
    TRANSFERRED,
    Methods,
    Question,
    image_free,
)
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing, heat_in_box, pointing
from foldcam.benchmarks.evaluation.localization.perturbation import (
    CurvePool,
    PerturbationCurves,
    cell_ranks,
    insertion_deletion,
)
from foldcam.benchmarks.evaluation.localization.subjects import (
    Grid,
    Subjects,
    draw_grids,
    grid_image,
)
from foldcam.export.banks.bank import Bank
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.onnx_graphs.device import Provider
from foldcam.runtime.backends import Backend, open_backend
from foldcam.runtime.contract.schema import EMBEDDING, HEATMAP, NEIGHBOR
from foldcam.runtime.images.preprocess import Image, Preprocessing

Floats = npt.NDArray[np.float32]
Statistic = Callable[[npt.NDArray[np.intp]], float]


@dataclass
class Scores:
    """Metrics of one method over the same `count` images."""

    count: int  # number of images
    # metric -> its value over given images (with repetition)
    statistics: dict[str, Statistic] = field(default_factory=dict)

    def add_values(self, name: str, values: npt.ArrayLike) -> None:
        """A metric that is the mean of one value per image."""
        array = np.asarray(values, np.float64)
        self.statistics[name] = lambda drawn: float(array[drawn].mean())

    def add_boxes(
        self, heatmaps: Floats, subjects: Subjects, size: tuple[int, int], frozen: FrozenLevels
    ) -> None:
        """MaxBoxAcc, MaxBoxAccV2, both also at frozen thresholds, pixel AP, pointing, share.

        Args:
            heatmaps: `float32 [N, h, w]`.
            size: `(height, width)` of the network's input.
        """
        accuracy = box_accuracy(heatmaps, subjects.boxes, size)
        precision = pixel_average_precision(heatmaps, subjects.boxes, size)
        pairs = list(zip(heatmaps, subjects.boxes, strict=True))
        self.statistics["pixel_ap"] = precision.pooled
        self.statistics["max_box_acc"] = accuracy.max_box_acc
        self.statistics["max_box_acc_v2"] = accuracy.max_box_acc_v2
        self.statistics["max_box_acc_frozen"] = lambda drawn: accuracy.box_acc_at(frozen, drawn)
        self.statistics["max_box_acc_v2_frozen"] = lambda d: accuracy.box_acc_v2_at(frozen, d)
        self.add_values("pointing", [pointing(heat, box, size) for heat, box in pairs])
        self.add_values("heat_in_box", [heat_in_box(heat, box, size) for heat, box in pairs])

    def add_curves(self, curves: list[PerturbationCurves]) -> None:
        """Insertion and deletion areas, pooled over images."""
        pool = CurvePool(curves)
        self.statistics["insertion"] = lambda drawn: pool.areas(drawn)[0]
        self.statistics["deletion"] = lambda drawn: pool.areas(drawn)[1]

    def defined(self) -> list[str]:
        """Metrics that have a value on these images.

        Insertion and deletion have none where blurring costs the network nothing.
        """
        everything = np.arange(self.count, dtype=np.intp)
        return [
            name
            for name, statistic in self.statistics.items()
            if np.isfinite(statistic(everything))
        ]

    def intervals(self, draws: int) -> dict[str, Interval]:
        """Each defined metric with its bootstrap interval."""
        return {
            name: bootstrap_of(self.statistics[name], self.count, draws) for name in self.defined()
        }


def differences(ours: Scores, theirs: Mapping[str, Scores], draws: int) -> dict[
    str, dict[str, Interval]
]:  # fmt: skip
    """Ours minus each other method, on the same images, with paired intervals."""
    return {
        name: {
            metric: paired_bootstrap_of(
                ours.statistics[metric], other.statistics[metric], ours.count, draws
            )
            for metric in ours.defined()
        }
        for name, other in theirs.items()
    }


Integers = npt.NDArray[np.int64]

_BATCH = 16
# Cells hidden or shown at a time: 12 steps on a 7 x 7 map.
_PERTURBATION_STEPS = 12
_GRID_REPEATS = {2: 2, 3: 1}
# A training image has this cosine at least to its own row, and to no other.
_ITSELF = 1 - 1e-5


@dataclass(frozen=True)
class LocalizationResult:
    """What the evaluation found."""

    images: int  # number of test images
    recall_at_1: float  # share whose nearest row has their label
    methods: dict[str, dict[str, Interval]]  # method -> metric -> value with interval
    # method -> metric -> transferred minus that method, paired
    differences: dict[str, dict[str, Interval]]
    heatmaps: dict[str, Floats]  # method -> `float32 [N, h, w]` of the single test images
    rows: Integers  # `int64 [N]`, the row that the folded graph returned
    # the 2 x 2 grids, with the transferred heatmap of each
    grids: list[tuple[Grid, Image, Floats]] = field(default_factory=list)


def evaluate_localization(
    network: Network,
    bank: Bank,
    model: Path,
    preprocessing: Preprocessing,
    test: Subjects,
    train: Subjects,
    *,
    seed: int = 0,
    draws: int = 2000,
    provider: Provider = "cpu",
    progress: Progress | None = None,
) -> LocalizationResult:
    """Measure every method.

    Args:
        model: the folded model made from both; what is transferred is what it returns.
    """
    on_progress = progress or (lambda *_: None)
    runner = Runner(network, Methods(network, bank), preprocessing, seed)
    size = (preprocessing.height, preprocessing.width)
    with closing(open_backend(model, provider=provider)) as backend:
        folded = run_folded(backend, preprocessing, test.resized)
        rows = folded[NEIGHBOR][:, 0].astype(np.int64)
        maps = runner.single(test.resized, rows)
        # What the device shows, and not what torch would compute.
        maps[TRANSFERRED] = folded[HEATMAP][:, 0]
        frozen = _frozen_levels(runner, bank, train, size)
        scores = {name: Scores(len(test)) for name in METHODS}
        for done, name in enumerate(METHODS):
            on_progress("boxes", done, len(METHODS))
            scores[name].add_boxes(maps[name], test, size, frozen[name])
        on_progress("boxes", len(METHODS), len(METHODS))
        shown = grid_scores(runner, test, rows, scores, on_progress)
        _perturbation_scores(runner, backend, test, rows, maps, scores, on_progress)
    others = {name: scores[name] for name in METHODS if name != TRANSFERRED}
    labels = np.asarray(bank.row_labels())
    on_progress("bootstrap", 0, 2)
    methods = {name: scores[name].intervals(draws) for name in METHODS}
    on_progress("bootstrap", 1, 2)
    versus = differences(scores[TRANSFERRED], others, draws)
    on_progress("bootstrap", 2, 2)
    return LocalizationResult(
        images=len(test),
        recall_at_1=float(np.mean(labels[rows] == np.asarray(test.labels))),
        methods=methods,
        differences=versus,
        heatmaps=maps,
        rows=rows,
        grids=shown,
    )


class Runner:
    """Runs the network and asks every method."""

    def __init__(
        self, network: Network, methods: Methods, preprocessing: Preprocessing, seed: int
    ) -> None:
        self.network = network
        self.methods = methods
        self.preprocessing = preprocessing
        self.seed = seed

    def activations(self, images: Sequence[Image]) -> Activations:
        """One forward pass over `uint8 [height, width, 3]` images."""
        batch = self.preprocessing.normalized(np.stack(images))
        return self.network.forward(torch.from_numpy(batch))

    def single(self, images: Sequence[Image], rows: Integers) -> dict[str, Floats]:
        """Every method's heatmaps of images that are explained by their own activations."""
        parts: dict[str, list[Floats]] = {name: [] for name in METHODS}
        for start in range(0, len(images), _BATCH):
            activations = self.activations(images[start : start + _BATCH])
            question = self.question(rows[start : start + _BATCH], start)
            for name in METHODS:
                parts[name].append(self.methods.heatmaps(name, activations, question))
        return {name: np.concatenate(part) for name, part in parts.items()}

    def similarities(self, bank: Bank, images: Sequence[Image]) -> Floats:
        """Cosine of each image to every bank row, `float32 [N, rows]`."""
        parts = []
        for start in range(0, len(images), _BATCH):
            embedding = self.activations(images[start : start + _BATCH]).embedding.numpy()
            norms = np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
            parts.append((embedding / norms) @ bank.embeddings.T)
        return np.concatenate(parts)

    def question(self, rows: Integers, start: int) -> Question:
        """The question about a block of images, with its own stream of random numbers."""
        return Question(rows, self.seed * 1_000_003 + start)


def run_folded(
    backend: Backend, preprocessing: Preprocessing, images: Sequence[Image]
) -> dict[str, npt.NDArray[np.float32]]:
    """The folded model's outputs for images at the network's input size."""
    uint8 = backend.contract.input_type == "uint8"
    parts = []
    for start in range(0, len(images), _BATCH):
        block = np.stack(images[start : start + _BATCH])
        parts.append(backend.run(block if uint8 else preprocessing.normalized(block)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _frozen_levels(
    runner: Runner, bank: Bank, train: Subjects, size: tuple[int, int]
) -> dict[str, FrozenLevels]:
    """Thresholds chosen on the training images, each asked for its nearest *other* row."""
    similarities = runner.similarities(bank, train.resized)
    similarities[similarities > _ITSELF] = -np.inf
    maps = runner.single(train.resized, similarities.argmax(axis=1).astype(np.int64))
    return {
        name: box_accuracy(heatmaps, train.boxes, size).best_levels()
        for name, heatmaps in maps.items()
    }


def grid_scores(
    runner: Runner,
    test: Subjects,
    rows: Integers,
    scores: dict[str, Scores],
    on_progress: Progress,
) -> list[tuple[Grid, Image, Floats]]:
    """Grid pointing through the network (2 x 2 and 3 x 3) and on separate feature maps.

    Args:
        rows: `int64 [N]`, the row that the folded graph returned for each.
    """
    feature_maps, weights = _asked(runner, test, rows)
    shown: list[tuple[Grid, Image, Floats]] = []
    for side, metric in ((2, "grid_pointing"), (3, "grid_pointing_3x3")):
        grids = draw_grids(test.labels, side, _GRID_REPEATS[side], runner.seed)
        values: dict[str, list[float]] = {name: [] for name in METHODS}
        for start in range(0, len(grids), _BATCH):
            on_progress(f"grids {side} x {side}", start, len(grids))
            block = grids[start : start + _BATCH]
            asked = [grid.asked for grid in block]
            images = [grid_image(grid, test.images, runner.preprocessing) for grid in block]
            activations = runner.activations(images)
            question = runner.question(rows[asked], start)
            for name in METHODS:
                if name in weights and not runner.methods.asks_the_picture(name):
                    feature_map = activations.feature_map.numpy()
                    maps = runner.methods.mapped(name, weights[name][asked], feature_map)
                else:
                    maps = runner.methods.heatmaps(name, activations, question)
                for grid, heat in zip(block, maps, strict=True):
                    values[name].append(grid_pointing(heat, side, side, grid.cell))
                if name == TRANSFERRED and side == 2:
                    shown += list(zip(block, images, maps, strict=True))
        on_progress(f"grids {side} x {side}", len(grids), len(grids))
        for name in METHODS:
            scores[name].add_values(metric, per_subject(grids, values[name], len(test)))
    _separate_maps(runner, test, feature_maps, weights, scores)
    return shown


def _asked(runner: Runner, test: Subjects, rows: Integers) -> tuple[Floats, dict[str, Floats]]:
    """Feature maps `[N, K, h, w]` of the single images, and each method's grad-weights `[N, K]`."""
    names = [name for name in METHODS if runner.methods.weights_channels(name)]
    weights: dict[str, list[Floats]] = {name: [] for name in names}
    maps = []
    for start in range(0, len(test), _BATCH):
        activations = runner.activations(test.resized[start : start + _BATCH])
        question = runner.question(rows[start : start + _BATCH], start)
        maps.append(activations.feature_map.numpy())
        for name in names:
            weights[name].append(runner.methods.grad_weights(name, activations, question))
    return np.concatenate(maps), {name: np.concatenate(part) for name, part in weights.items()}


def _separate_maps(
    runner: Runner,
    test: Subjects,
    feature_maps: Floats,
    weights: dict[str, Floats],
    scores: dict[str, Scores],
) -> None:
    """The same 2 x 2 grids, of four feature maps instead of one picture."""
    grids = draw_grids(test.labels, 2, _GRID_REPEATS[2], runner.seed)
    height, width = feature_maps.shape[2:]
    for name in METHODS:
        values = []
        for number, grid in enumerate(grids):
            cells = feature_maps[list(grid.subjects)]
            if name in weights:
                asked = np.repeat(weights[name][[grid.asked]], 4, axis=0)
                heat = runner.methods.mapped(name, asked, cells)
            elif name == "mean_activation":
                heat = np.maximum(cells.mean(axis=1), 0)
            else:
                # A map that looks at no image covers the four as it would cover one.
                whole = image_free(name, 1, 2 * height, 2 * width, number)[0]
                values.append(grid_pointing(whole, 2, 2, grid.cell))
                continue
            total = float(heat.sum())
            values.append(float(heat[grid.cell].sum()) / total if total > 0 else 0.0)
        scores[name].add_values("grid_pointing_maps", per_subject(grids, values, len(test)))


def _perturbation_scores(
    runner: Runner,
    backend: Backend,
    test: Subjects,
    rows: Integers,
    maps: dict[str, Floats],
    scores: dict[str, Scores],
    on_progress: Progress,
) -> None:
    """Insertion and deletion of the contrast `e . v`: own class against the others."""
    directions = runner.methods.direction(rows)
    curves: dict[str, list[PerturbationCurves]] = {name: [] for name in METHODS}
    sigma = max(runner.preprocessing.width, runner.preprocessing.height) / 10
    for number, image in enumerate(test.resized):
        on_progress("insertion and deletion", number, len(test))
        blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
        planes = np.moveaxis(image, -1, 0), np.moveaxis(blurred, -1, 0)

        def contrast(batch: npt.NDArray[np.uint8], number: int = number) -> Floats:
            pictures = list(np.moveaxis(batch, 1, -1))
            found = run_folded(backend, runner.preprocessing, pictures)[EMBEDDING]
            norms = np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
            result: Floats = (found / norms) @ directions[number]
            return result

        # Methods that agree on the order (transfer and its reference, for a linear
        # head) are measured once.
        measured: dict[bytes, PerturbationCurves] = {}
        for name in METHODS:
            order = cell_ranks(maps[name][number], seed=number)
            key = order.tobytes()
            if key not in measured:
                measured[key] = insertion_deletion(contrast, *planes, order, _PERTURBATION_STEPS)
            curves[name].append(measured[key])
    on_progress("insertion and deletion", len(test), len(test))
    for name in METHODS:
        scores[name].add_curves(curves[name])


def per_subject(grids: list[Grid], values: list[float], count: int) -> npt.NDArray[np.float64]:
    """Mean over the grids that ask for each subject."""
    sums, counts = np.zeros(count), np.zeros(count)
    for grid, value in zip(grids, values, strict=True):
        sums[grid.asked] += value
        counts[grid.asked] += 1
    return np.asarray(sums / counts)
