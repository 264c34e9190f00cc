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
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.bank.live_bank import class_sums as class_sums
from foldcam.runtime.contract.bank.live_bank import triplets_of_sums as triplets_of_sums
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_ZERO = 1e-8
# They compare the anchors of a batch with each other: one anchor has no gradient.
_BETWEEN_ANCHORS = ("NCALoss", "ThresholdConsistentMarginLoss")
# Its own defaults are distances, and leave no gradient where similarities are meant.
_FOR_SIMILARITIES = {"ContrastiveLoss": {"pos_margin": 1.0, "neg_margin": 0.0}}
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
    """The exact mean over all triplets of `L = (|a - p|^2 - |a - n|^2) / 2`.

    `-dL/da = p - n`, whose mean over every positive (the anchor included in its class) and every
    negative is `v = mean(class) - mean(others)`: one direction per class, from class sums alone.
    `e . v` is then in units of the cosine: by how much an image is more like its class than
    like the others.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`, class numbers 0..C-1, each present.
    """
    per_class = triplets_of_sums(class_sums(embeddings, labels), np.bincount(labels))
    return Directions(per_class[labels], per_class=True)


def sampled_triplets(embeddings: Floats, labels: Integers, count: int, seed: int) -> Directions:
    """The mean over `count` triplets per anchor, drawn with replacement.

    The positive is another image of the anchor's class; an anchor that is alone
    in its class falls back to all triplets.
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
        negatives = generator.choice(np.flatnonzero(labels != label), count)
        values[row] = embeddings[chosen].mean(axis=0) - embeddings[negatives].mean(axis=0)
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


@dataclass(frozen=True)
class Comparison:
    """A loss and the miner that chooses what it compares.

    Attributes:
        loss: called with anchor, label, pairs or triplets, reference rows and labels.
        miner: None for every pair.
    """

    loss: Any
    miner: Any | None = None


def directions_of(comparison: Comparison, embeddings: Floats, labels: Integers) -> Directions:
    """A metric-learning loss as a function of cosines `s_ij = e_i . e_j`.

    `v_i = -sum_j (dL/ds_ij) e_j`, the anchor's role only. The cosine of unit rows
    is their dot product; no gradient passes through a normalisation, which would
    remove the component along `e_i`, the very evidence for the similarity.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`.
    """
    import torch

    everything = all_triplets(embeddings, labels)
    reference = torch.from_numpy(embeddings)
    targets = torch.from_numpy(labels)
    values = np.zeros_like(embeddings)
    # One anchor at a time: in a batch of them, losses weigh one anchor's positives
    # against its negatives by how many pairs the others have.
    for row in range(len(labels)):
        anchor = reference[row : row + 1].clone().requires_grad_(True)
        same = targets[None, :] == targets[row]
        pairs = (*torch.where(_without(same, row)), *torch.where(~same))
        label = targets[row : row + 1]
        try:
            if comparison.miner is not None:
                mined = comparison.miner(anchor.detach(), label, reference, targets)
                pairs = _not_with_itself(mined, row)
            value = comparison.loss(anchor, label, pairs, reference, targets)
        except Exception as error:
            # Losses refuse what they cannot do with many unrelated exceptions.
            name = type(comparison.loss).__name__
            raise FoldcamError(
                f"{name} cannot be computed from pairs of one batch: {error}."
            ) from error
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, anchor)
            values[row] = -gradient[0].numpy()
    silent = np.linalg.norm(values, axis=1) < _ZERO
    values[silent] = everything.values[silent]
    return Directions(values, fallback_rows=int(silent.sum()))


def _without(same: Any, row: int) -> Any:
    others = same.clone()
    others[0, row] = False
    return others


def parse_comparison(text: str) -> Comparison:
    """`TripletMarginLoss:margin=0.1+TripletMarginMiner` -> loss and miner, on dot products."""
    loss, plus, miner = text.partition("+")
    return Comparison(_loss(loss), _miner(miner) if plus else None)


def _loss(text: str) -> Any:
    from pytorch_metric_learning import losses

    name, *settings = text.split(":")
    if name in _BETWEEN_ANCHORS:
        raise FoldcamError(
            f"pml:{name} compares the anchors of a batch with each other and gives one anchor no "
            "gradient: use another loss of pairs or triplets."
        )
    factory = getattr(losses, name, None)
    if not (isinstance(factory, type) and issubclass(factory, losses.BaseMetricLossFunction)):
        raise FoldcamError(f"pytorch-metric-learning has no loss {name!r}.")
    arguments = dict(_setting(text, setting) for setting in settings)
    try:
        loss = factory(distance=_cosine(), **{**_FOR_SIMILARITIES.get(name, {}), **arguments})
    except Exception as error:
        # Losses refuse settings with many unrelated exceptions.
        raise FoldcamError(
            f"pml:{text} cannot be made: {error}. Only losses of pairs or triplets that need no "
            "trained weights of their own and accept a similarity can give directions."
        ) from None
    if any(True for _ in loss.parameters()):
        raise FoldcamError(
            f"pml:{name} has trained weights of its own (proxies), which a bank does not have: use "
            "a loss of pairs or triplets."
        )
    return loss


def _miner(text: str) -> Any:
    from pytorch_metric_learning import miners

    name, *settings = text.split(":")
    factory = getattr(miners, name, None)
    if not (isinstance(factory, type) and issubclass(factory, miners.BaseMiner)):
        raise FoldcamError(f"pytorch-metric-learning has no miner {name!r}.")
    try:
        return factory(distance=_cosine(), **dict(_setting(text, item) for item in settings))
    except Exception as error:
        raise FoldcamError(f"The miner {text!r} cannot be made: {error}.") from None


def _cosine() -> Any:
    """Cosine similarity of rows that are of norm 1 already."""
    from pytorch_metric_learning import distances

    cosine = distances.CosineSimilarity()
    cosine.normalize_embeddings = False
    return cosine


def _not_with_itself(mined: tuple[Any, ...], row: int) -> tuple[Any, ...]:
    """Mined pairs or triplets without those whose positive is the anchor's own row."""
    positive = mined[1]
    kept = positive != row
    if len(mined) == 3:
        return tuple(part[kept] for part in mined)
    return (mined[0][kept], positive[kept], *mined[2:])


def _setting(text: str, setting: str) -> tuple[str, float]:
    key, _, value = setting.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise FoldcamError(
            f"pml:{text}: {setting!r} is not name=number, as in margin=0.1."
        ) from None
