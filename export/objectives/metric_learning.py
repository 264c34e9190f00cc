"""Losses of pytorch-metric-learning as functions of cosines, one anchor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.objectives.directions import Directions, all_triplets
from foldcam.runtime.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_ZERO = 1e-8
# They compare the anchors of a batch with each other: one anchor has no gradient.
_BETWEEN_ANCHORS = ("NCALoss", "ThresholdConsistentMarginLoss")
# Its own defaults are distances, and leave no gradient where similarities are meant.
_FOR_SIMILARITIES = {"ContrastiveLoss": {"pos_margin": 1.0, "neg_margin": 0.0}}


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
        comparison: a loss whose distance does not normalise, perhaps with a miner
            that chooses its pairs or triplets.
        embeddings: `float32 [N, D]` of norm 1.
        labels: `int64 [N]`.

    Raises:
        FoldcamError: there is one class only, or the loss cannot be used here.
    """
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
    """`TripletMarginLoss:margin=0.1+TripletMarginMiner` -> loss and miner, on dot products.

    Raises:
        FoldcamError: no such loss or miner, or one that gives no directions.
    """
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
