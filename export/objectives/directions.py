"""Objectives: (embeddings, labels) -> directions, without touching the network.

The direction of a row is minus the gradient of the objective with respect to that
row's embedding, taken in the normalised space and in the anchor's role only: the
way the embedding must move to satisfy its comparisons. Because the mean of many
triplets' gradients is the gradient of their mean, any number of comparisons costs
one vector-Jacobian product per image later on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.runtime.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ZERO = 1e-8
DEFAULT_OBJECTIVE = "all-triplets"


@dataclass(frozen=True)
class Directions:
    """One direction per row.

    Attributes:
        values: `float32 [N, D]`.
        per_class: whether all rows of a class have the same direction.
        fallback_rows: rows whose own comparisons were all satisfied (a margin
            left them without a gradient), which took the all-triplets direction.
    """

    values: Floats
    per_class: bool = False
    fallback_rows: int = 0


@dataclass(frozen=True)
class Objective:
    """A named way from embeddings and labels to directions.

    Attributes:
        name: as on the command line.
        directions: called with embeddings `float32 [N, D]` of norm 1 and class
            numbers `int64 [N]`.
        of_sums: where one direction per class follows from the classes' sums of embeddings
            alone: called with sums `float64 [C, D]` and counts `int64 [C]`, gives
            `float32 [C, D]`. None where single embeddings are compared.
    """

    name: str
    directions: Callable[[Floats, Integers], Directions]
    of_sums: Callable[[Doubles, Integers], Floats] | None = None


def parse_objective(text: str, seed: int = 0) -> Objective:
    """The objective that a command-line text names.

    Args:
        text: `all-triplets`, `sampled:50`, `proxy`, or `pml:TripletMarginLoss` with
            optional arguments and miner,
            `pml:TripletMarginLoss:margin=0.1+MultiSimilarityMiner`.
        seed: the seed of the sampled triplets.

    Raises:
        FoldcamError: no such objective, or a loss that cannot be used.
    """
    kind, _, rest = text.partition(":")
    if text == "all-triplets":
        return Objective(text, all_triplets, triplets_of_sums)
    if kind == "sampled":
        if not rest.isdigit() or int(rest) < 1:
            raise FoldcamError(f"Objective {text!r}: give a count of triplets, as in sampled:50.")
        count = int(rest)
        return Objective(text, lambda e, labels: sampled_triplets(e, labels, count, seed))
    if text == "proxy":
        return Objective(text, class_proxies, lambda sums, _: proxies_of_sums(sums))
    if kind == "pml":
        from foldcam.export.objectives.metric_learning import directions_of, parse_comparison

        comparison = parse_comparison(rest)
        return Objective(text, lambda e, labels: directions_of(comparison, e, labels))
    if kind == "kernel":
        raise FoldcamError(
            f"Objective {text!r} is for values and not for labels: pass --continuous."
        )
    raise FoldcamError(
        f"Objective {text!r} is unknown: use all-triplets, sampled:50, proxy, or pml:LOSS with a "
        "loss of pytorch-metric-learning, such as pml:TripletMarginLoss."
    )


def all_triplets(embeddings: Floats, labels: Integers) -> Directions:
    """The exact mean over all triplets of `L = |a - p|^2 - |a - n|^2`.

    `-dL/da = 2 (p - n)`, whose mean over every positive (the anchor included in
    its class) and every negative is `2 (mean(class) - mean(others))`: one
    direction per class, from class sums alone.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`, class numbers 0..C-1, each present.

    Raises:
        FoldcamError: there is one class only.
    """
    per_class = triplets_of_sums(class_sums(embeddings, labels), np.bincount(labels))
    return Directions(per_class[labels], per_class=True)


def triplets_of_sums(sums: Doubles, counts: Integers) -> Floats:
    """`all_triplets`, for each class once.

    Args:
        sums: `float64 [C, D]`, of each class's embeddings.
        counts: `int64 [C]`, images of each class, at least 1.

    Returns:
        `float32 [C, D]`.

    Raises:
        FoldcamError: there is one class only.
    """
    if len(counts) < 2:
        raise FoldcamError(
            "All images have one label: a triplet needs an image of another label, so add one."
        )
    means = sums / counts[:, None]
    others = (sums.sum(axis=0) - sums) / (counts.sum() - counts)[:, None]
    directions: Floats = (2.0 * (means - others)).astype(np.float32)
    return directions


def class_sums(embeddings: Floats, labels: Integers) -> Doubles:
    """`float64 [C, D]`: the sum of each class's embeddings; shapes as in `all_triplets`."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]))
    # Added up in float64 without a copy of all rows in it.
    np.add.at(sums, labels, embeddings)
    return sums


def sampled_triplets(embeddings: Floats, labels: Integers, count: int, seed: int) -> Directions:
    """The mean over `count` triplets per anchor, drawn with replacement.

    The positive is another image of the anchor's class; an anchor that is alone
    in its class falls back to all triplets.

    Raises:
        FoldcamError: there is one class only.
    """
    everything = all_triplets(embeddings, labels)
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    values = np.empty_like(embeddings)
    fallback = 0
    for row, label in enumerate(labels):
        positives = members[label][members[label] != row]
        if len(positives) == 0:
            values[row] = everything.values[row]
            fallback += 1
            continue
        chosen = generator.choice(positives, count)
        negatives = _draw_others(generator, labels, label, count)
        values[row] = 2.0 * (embeddings[chosen].mean(axis=0) - embeddings[negatives].mean(axis=0))
    return Directions(values, fallback_rows=fallback)


def class_proxies(embeddings: Floats, labels: Integers) -> Directions:
    """The closed-form class proxy: towards the normalised mean of the class, away from nothing.

    What EmbeddingCAM asks. Without the other classes in it, the direction also speaks
    for what all classes share; `docs/method.md` measures what that costs.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`, class numbers 0..C-1, each present.
    """
    per_class = proxies_of_sums(class_sums(embeddings, labels))
    return Directions(per_class[labels], per_class=True)


def proxies_of_sums(sums: Doubles) -> Floats:
    """`class_proxies`, for each class once: `float64 [C, D]` -> `float32 [C, D]`."""
    proxies: Floats = (
        sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), _ZERO)
    ).astype(np.float32)
    return proxies


def _draw_others(
    generator: np.random.Generator, labels: Integers, label: int, count: int
) -> Integers:
    others = np.flatnonzero(labels != label)
    return generator.choice(others, count)
