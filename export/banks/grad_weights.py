"""Grad-weights: (images, directions) -> [N, K], one head-only product per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.banks.numbers import named
from foldcam.export.datasets import Sample
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
ChannelRule = Literal["all", "positive"]
CHANNEL_RULES: tuple[ChannelRule, ...] = get_args(ChannelRule)


@dataclass(frozen=True)
class HeadTraits:
    """What the head's Jacobian allows.

    Attributes:
        linear: it is the same for every image, so that grad-weights follow from
            the directions alone and no second pass over the images is needed.
        positional: it weights positions differently, which the spatial mean loses.
    """

    linear: bool
    positional: bool


def head_traits(network: Network, activations: Activations) -> HeadTraits:
    """Try the head on a few images."""
    return HeadTraits(
        linear=network.head_is_linear(activations),
        positional=network.head_depends_on_position(activations),
    )


def pull_back(
    network: Network,
    activations: Activations,
    directions: Floats,
    samples: Sequence[Sample] | None = None,
) -> Floats:
    """Grad-weights of the batch of images that `activations` came from.

    Args:
        activations: the activations of N images.
        directions: `float32 [N, D]`.
        samples: the images, for the message.

    Returns:
        `float32 [N, K]`, not yet scaled.
    """
    pulled: Floats = network.pull_back(activations, torch.from_numpy(directions)).numpy()
    bad = np.flatnonzero(~np.isfinite(pulled).all(axis=1))
    if len(bad):
        which = f" ({named([samples[int(row)] for row in bad])})" if samples else ""
        raise FoldcamError(
            f"The head's gradient is not finite for some images{which}: its weights or its input "
            "overflow."
        )
    return pulled


def pull_back_anywhere(network: Network, activations: Activations, directions: Floats) -> Floats:
    """Grad-weights for any number of directions, for a linear head.

    The Jacobian is the same at every image, but for a factor where the head normalises inside:
    then it is taken with the mean of the images' factors, so that all rows have one unit.

    Args:
        network: a network with a linear head, see `Network.head_is_linear`.
        activations: the activations of any images.
        directions: `float32 [M, D]`.

    Returns:
        `float32 [M, K]`, not yet scaled.
    """
    size = activations.feature_map.shape[0]
    common = np.random.default_rng(0).normal(size=(1, directions.shape[1])).astype(np.float32)
    lengths = np.linalg.norm(
        pull_back(network, activations, np.repeat(common, size, axis=0)), axis=1, keepdims=True
    )
    factors = np.divide(lengths.mean(), lengths, out=np.ones_like(lengths), where=lengths > 0)
    padded = -len(directions) % size
    rows = np.concatenate([directions, np.zeros((padded, directions.shape[1]), np.float32)])
    pulled = [
        pull_back(network, activations, rows[start : start + size]) * factors
        for start in range(0, len(rows), size)
    ]
    return np.concatenate(pulled)[: len(directions)]


def keep_channels(grad_weights: Floats, rule: ChannelRule) -> Floats:
    """Apply the channel rule: `all`, or `positive` to drop evidence against."""
    return grad_weights if rule == "all" else np.maximum(grad_weights, 0)
