"""Which cells a map and its controls hide, and what is left of the answer without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation.explanation.subject import BATCH, Subject, View
from foldcam.benchmarks.evaluation.localization.metrics import resize_bilinear
from foldcam.benchmarks.evaluation.localization.perturbation import (
    CellBlur,
    Cells,
    PerturbationCurves,
    cell_ranks,
    first_cells,
    insertion_deletion,
)
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import all_triplets
from foldcam.runtime.images.preprocess import Image

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SCORES = ("contrast", "margin", "right")


class Scorer:
    """Scores of embeddings against the training rows; see the package for the definitions.

    Args:
        bank: the training rows, of two labels at least.
    """

    def __init__(self, bank: Bank) -> None:
        self._rows = bank.embeddings
        self._labels = np.asarray(bank.row_labels(), object)
        _, firsts, classes = np.unique(
            self._labels.astype(str), return_index=True, return_inverse=True
        )
        directions = all_triplets(bank.embeddings, classes.astype(np.int64)).values
        self._directions = {str(self._labels[row]): directions[row] for row in firsts}

    def direction(self, label: str) -> Floats:
        """`float32 [D]`: mean of the label's rows minus the mean of all others."""
        direction: Floats = self._directions[label]
        return direction

    def __call__(self, embeddings: Floats, label: str) -> Doubles:
        """Scores `float64 [B, 3]` in the order of `SCORES`, of embeddings of one label's pictures.

        An embedding without a direction (zero, or not finite) has no contrast and no margin, and
        its label is not right.

        Args:
            embeddings: `float32 [B, D]`, as the network returns them.
        """
        unit = unit_or_zero(embeddings)
        similarities = unit @ self._rows.T
        own = self._labels == label
        margin = similarities[:, own].max(axis=1) - similarities[:, ~own].max(axis=1)
        contrast = unit @ self.direction(label)
        return np.stack([contrast, margin, margin > 0], axis=1).astype(np.float64)


def unit_or_zero(embeddings: Floats) -> Floats:
    """Embeddings `[B, D]` over their norms; zeros where there is none."""
    finite = np.where(np.isfinite(embeddings).all(axis=1, keepdims=True), embeddings, 0)
    norms = np.linalg.norm(finite.astype(np.float64), axis=1, keepdims=True)
    unit: Floats = (finite / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


Ranks = npt.NDArray[np.intp]

CONTROLS = ("own", "other", "shifted")
"""The picture's own map, that of another picture, and its own map shifted."""


def blank_maps(maps: Floats, evidence: bool) -> npt.NDArray[np.bool_]:
    """`bool [N]`: maps `[N, h, w]` that name no cell."""
    flat = maps.reshape(len(maps), -1)
    return np.asarray(flat.max(axis=1) <= (0 if evidence else flat.min(axis=1)))


def ranks_of(
    maps: Floats, evidence: bool, seed: int, shape: tuple[int, int] | None = None
) -> Ranks:
    """Rank the cells of each map, 0 the hottest.

    Args:
        maps: `[N, h, w]` of one method.
        shape: the grid that is ranked, where it is another than the map's.

    Returns:
        `intp [N, *shape]`.
    """
    blank = blank_maps(maps, evidence)
    grid = shape or (maps.shape[1], maps.shape[2])
    ranks = np.empty((len(maps), *grid), np.intp)
    for number, heat in enumerate(maps):
        if blank[number]:
            # Beyond the seeds of other runs: this picture's own order.
            ranks[number] = cell_ranks(np.zeros(grid), seed * 1_000_003 + 1 + number)
        else:
            ranks[number] = cell_ranks(resize_bilinear(heat.astype(np.float64), grid), seed)
    return ranks


def controlled(ranks: Ranks, others: npt.NDArray[np.int64]) -> Ranks:
    """The rankings of `CONTROLS` for each picture.

    Args:
        ranks: `intp [N, h, w]`.
        others: `int64 [N]`, see `other_pictures`.

    Returns:
        `intp [N, 3, h, w]`.
    """
    half = (ranks.shape[1] // 2, ranks.shape[2] // 2)
    return np.stack([ranks, ranks[others], np.roll(ranks, half, axis=(1, 2))], axis=1)


def other_pictures(labels: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    """For each picture another one of another label, each picture once where that can be.

    Sorted by label, with labels and pictures in a drawn order, all move on by at least the
    greatest number of pictures of one label. Where one label has more than half of them that
    cannot be, and each picture draws one.

    Args:
        labels: of N pictures, at least two of them different.

    Returns:
        `int64 [N]`.
    """
    generator = np.random.default_rng([seed, 3])
    names, classes, counts = np.unique(
        np.asarray(labels, object).astype(str), return_inverse=True, return_counts=True
    )
    count, greatest = len(labels), int(counts.max())
    order = generator.permutation(count)
    order = order[np.argsort(generator.permutation(len(names))[classes[order]], kind="stable")]
    others = np.empty(count, np.int64)
    if 2 * greatest > count:
        for number in range(count):
            others[number] = generator.choice(np.flatnonzero(classes != classes[number]))
        return others
    step = int(generator.integers(greatest, count - greatest + 1))
    others[order] = np.roll(order, -step)
    return others


Integers = npt.NDArray[np.int64]

SHARES = (0.1, 0.2, 0.3)
# Cells hidden or shown at a time, for the curves.
_STEPS = 8


class Embedder(Protocol):
    """A network that looks at changed pictures."""

    def embed(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """`float32 [N, D]`, as the network returns them, of pictures at the input's size."""


@dataclass(frozen=True, eq=False)
class Damage:
    """Scores after damage."""

    before: Doubles  # `float64 [N, 3]`, `SCORES` of each picture as it is
    after: dict[str, Doubles]  # method -> `float64 [N, shares, controls, 3]`

    def select(self, pictures: Integers) -> Damage:
        """Of some of the pictures."""
        return Damage(
            self.before[pictures], {name: values[pictures] for name, values in self.after.items()}
        )


@dataclass(frozen=True)
class Hidden:
    """The different sets of cells that one picture's maps and controls hide.

    Many are equal (methods that agree, a blob that is everywhere the same): each is tried once.
    """

    masks: list[Cells]  # `bool [h, w]` each
    places: dict[str, Integers]  # method -> `int64 [shares, controls]`, which of the masks


def hidden_cells(ranks: Mapping[str, Ranks]) -> Hidden:
    """Args: method -> `intp [controls, h, w]` of one picture."""
    masks: list[Cells] = []
    known: dict[tuple[tuple[int, ...], bytes], int] = {}
    places = {}
    for name, orders in ranks.items():
        chosen = np.empty((len(SHARES), len(CONTROLS)), np.int64)
        for step, share in enumerate(SHARES):
            for control, order in enumerate(orders):
                mask = first_cells(order, share)
                key = (mask.shape, np.packbits(mask).tobytes())
                if key not in known:
                    known[key] = len(masks)
                    masks.append(mask)
                chosen[step, control] = known[key]
        places[name] = chosen
    return Hidden(masks, places)


def blurred(
    subject: Embedder,
    scorer: Scorer,
    views: Callable[[int], View],
    labels: Sequence[str],
    ranks: Mapping[str, Ranks],
    progress: Callable[[int, int], None],
) -> tuple[Damage, dict[str, list[PerturbationCurves]]]:
    """Blur cells in the pictures, and take the curves of insertion and deletion.

    Args:
        ranks: method -> `intp [N, controls, h, w]`.
    """
    before = np.empty((len(labels), len(SCORES)))
    after = {name: _empty(len(labels)) for name in ranks}
    curves: dict[str, list[PerturbationCurves]] = {name: [] for name in ranks}
    for number, label in enumerate(labels):
        view = views(number)
        blur = CellBlur(view.image, view.window, whole=True)
        own = {name: orders[number] for name, orders in ranks.items()}
        hidden = hidden_cells(own)
        images = [view.image, *(blur(mask) for mask in hidden.masks)]
        scores = scorer(subject.embed(images), label)
        before[number] = scores[0]
        for name, places in hidden.places.items():
            after[name][number] = scores[1 + places]
        whole = blur(np.ones((1, 1), bool))
        for name, found in _curves(subject, scorer, (view.image, whole), label, own).items():
            curves[name].append(found)
        progress(number + 1, len(labels))
    return Damage(before, after), curves


def replaced(
    subject: Subject,
    scorer: Scorer,
    views: Callable[[int], View],
    labels: Sequence[str],
    ranks: Mapping[str, Ranks],
    progress: Callable[[int, int], None],
) -> Damage:
    """Replace cells of the feature map by those of the mean training picture; as `blurred`."""
    count = len(labels)
    before = np.empty((count, len(SCORES)))
    after = {name: _empty(count) for name in ranks}
    mean = torch.from_numpy(subject.mean_map)
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        activations = subject.activations([views(number).image for number in numbers])
        hidden = [
            hidden_cells({name: orders[number] for name, orders in ranks.items()})
            for number in numbers
        ]
        as_it_is = subject.network.embed_map(activations, activations.feature_map).numpy()
        # A round hides the next set of cells of each picture; who has no more waits.
        rounds = [as_it_is]
        for turn in range(max(len(each.masks) for each in hidden)):
            masks = np.stack([each.masks[min(turn, len(each.masks) - 1)] for each in hidden])
            changed = torch.where(torch.from_numpy(masks)[:, None], mean, activations.feature_map)
            rounds.append(subject.network.embed_map(activations, changed).numpy())
        embeddings = np.stack(rounds, axis=1)
        for place, number in enumerate(numbers):
            scores = scorer(embeddings[place], labels[number])
            before[number] = scores[0]
            for name, places in hidden[place].places.items():
                after[name][number] = scores[1 + places]
        progress(numbers[-1] + 1, count)
    return Damage(before, after)


def _empty(count: int) -> Doubles:
    return np.empty((count, len(SHARES), len(CONTROLS), len(SCORES)))


def _curves(
    subject: Embedder,
    scorer: Scorer,
    pair: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
    label: str,
    ranks: Mapping[str, Ranks],
) -> dict[str, PerturbationCurves]:
    """Insertion and deletion of one picture by each method's own order."""
    direction = scorer.direction(label)

    def contrast(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        found = subject.embed(list(np.moveaxis(planes, 1, -1)))
        scores: npt.NDArray[np.float32] = unit_or_zero(found) @ direction
        return scores

    image, whole = (np.moveaxis(each, -1, 0) for each in pair)
    known: dict[bytes, PerturbationCurves] = {}
    for order in (orders[0] for orders in ranks.values()):
        if order.tobytes() not in known:
            known[order.tobytes()] = insertion_deletion(contrast, image, whole, order, _STEPS)
    return {name: known[orders[0].tobytes()] for name, orders in ranks.items()}
