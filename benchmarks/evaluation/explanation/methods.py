"""The maps that are compared, as data: a name and a function.

A new method is one more entry of `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import torch

from foldcam.benchmarks.evaluation.localization.methods import (
    Methods,
    Question,
    through_normalization,
    weighted,
)
from foldcam.benchmarks.evaluation.localization.metrics import centred_blob
from foldcam.export.banks.bank import Bank
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.networks.onnx_networks.prepare import noise
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.runtime.contract.schema import CONTRIBUTION, HEATMAP

Floats = npt.NDArray[np.float32]

# Class and register tokens in front of the patches; more is another kind of sequence.
_MOST_PREFIX = 32


class ClassAttention:
    """The last attention of one query over the patches, mean of heads.

    Args:
        grid: `(h, w)`, patches.
    """

    def __init__(self, session: GraphSession, grid: tuple[int, int]) -> None:
        self._session = session
        self._grid = grid

    def __call__(self, images: Floats) -> Floats:
        """`float32 [N, h, w]` of images `float32 [N, 3, H, W]`."""
        (weights,) = self._session.run(images)
        return _over_patches(weights, len(images), self._grid)


def find_class_attention(
    model: onnx.ModelProto,
    image_size: tuple[int, int],
    grid: tuple[int, int],
    device: Device = CPU,
) -> ClassAttention | None:
    """The class token's last attention; None where the network has none.

    It is a softmax whose last axis is the patches behind a few tokens more, and whose first (or
    only) query is the class token. An attention of patches alone has no such query.

    Args:
        image_size: `(height, width)` of the input in pixels.
        grid: `(h, w)` of the feature map.
    """
    names = [str(node.output[0]) for node in model.graph.node if node.op_type == "Softmax"]
    if not names:
        return None
    found = GraphSession(model, names).run(noise(image_size, 2))
    cells = grid[0] * grid[1]
    for name, weights in reversed(list(zip(names, found, strict=True))):
        if weights.ndim < 2 or weights.shape[0] % 2:
            continue
        queries, keys = weights.shape[-2:]
        prefix = keys - cells
        alone = queries == 1 and 0 <= prefix <= _MOST_PREFIX
        first = queries == keys and 1 <= prefix <= _MOST_PREFIX
        if alone or first:
            return ClassAttention(GraphSession(model, [name], device), grid)
    return None


def _over_patches(weights: npt.NDArray[np.float32], count: int, grid: tuple[int, int]) -> Floats:
    """`[N, heads, Q, T]` or `[N heads, Q, T]` -> the first query's, over the patches."""
    heads = weights.reshape(count, -1, *weights.shape[-2:])[:, :, 0]
    patches = heads[..., heads.shape[-1] - grid[0] * grid[1] :].mean(axis=1)
    return np.asarray(patches.reshape(count, *grid), np.float32)


Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """A batch of pictures that are to be explained."""

    network: Network  # cut at its last spatial activation `A`
    bank: Bank  # of that network: grad-weights are spatial means
    activations: Activations  # of the N pictures
    folded: Mapping[str, Floats]  # the folded model's outputs
    rows: Integers  # `int64 [N]`, the nearest bank row of each
    # `int64 [N]`, which pictures they are: each has random numbers of its own, whatever batch it
    # is in
    numbers: Integers
    attention: Floats | None  # `float32 [N, h, w]`, None where no class token looks at patches
    seed: int  # of what is drawn

    @property
    def feature_map(self) -> Floats:
        """`float32 [N, K, h, w]`."""
        values: Floats = self.activations.feature_map.numpy()
        return values

    def drawn(self, place: int, stream: int) -> np.random.Generator:
        """Random numbers for one picture of the batch."""
        return np.random.default_rng([self.seed, stream, int(self.numbers[place])])


@dataclass(frozen=True)
class Method:
    """A way to explain a picture."""

    name: str  # in tables and files
    # `float32 [N, h, w]` of a batch, the hottest cells the greatest; None where the network has
    # no such map
    maps: Callable[[Asked], Floats | None]
    # whether what is not positive speaks for nothing: a map without a positive cell is then
    # blank. Else a map is blank where all cells are equal
    evidence: bool = False


def contribution(asked: Asked) -> Floats:
    """The folded graph's signed output; of a graph without one its heatmap."""
    return asked.folded.get(CONTRIBUTION, asked.folded[HEATMAP])[:, 0]


def contribution_smoothed(asked: Asked) -> Floats:
    """The mean over 3 x 3 cells, at the border over those that are there."""
    maps = contribution(asked)
    ones = np.ones(maps.shape[1:], np.float32)
    return np.stack([_sum_3x3(heat) / _sum_3x3(ones) for heat in maps])


def heatmap_by_mean(asked: Asked) -> Floats:
    """`A` weighted by transferred spatial means of gradients of all triplets."""
    return weighted(asked.bank.grad_weights[asked.bank.grad_index[asked.rows]], asked.feature_map)


def one_triplet_gradcam(asked: Asked) -> Floats:
    """Plain Grad-CAM at `A`: one drawn triplet, its own gradient, through the normalisation."""
    drawn = Methods(asked.network, asked.bank)
    triplets = []
    for place in range(len(asked.rows)):
        seed = int(asked.drawn(place, 1).integers(1 << 31))
        triplets.append(drawn.one_triplet(Question(asked.rows[[place]], seed)))
    through = through_normalization(
        asked.network.head_end(asked.activations), torch.from_numpy(np.concatenate(triplets))
    )
    pulled: Floats = asked.network.pull_back(asked.activations, through).numpy()
    return weighted(pulled, asked.feature_map)


def mean_activation(asked: Asked) -> Floats:
    """Mean over channels: sees objects, asks nothing."""
    mean: Floats = asked.feature_map.mean(axis=1)
    return mean


def mean_magnitude(asked: Asked) -> Floats:
    """Mean over channels of `|A|`, for features of both signs."""
    mean: Floats = np.abs(asked.feature_map).mean(axis=1)
    return mean


def attention(asked: Asked) -> Floats | None:
    """What the class token looks at, mean of heads."""
    return asked.attention


def centre(asked: Asked) -> Floats:
    """A blob in the middle: a map that never saw the picture."""
    count, _, height, width = asked.feature_map.shape
    return np.repeat(centred_blob(height, width)[None].astype(np.float32), count, axis=0)


def random(asked: Asked) -> Floats:
    """Another order of cells for each picture."""
    shape = asked.feature_map.shape[2:]
    return np.stack(
        [asked.drawn(place, 2).random(shape, np.float32) for place in range(len(asked.rows))]
    )


METHODS = (
    Method("contribution", contribution, evidence=True),
    Method("contribution_smoothed", contribution_smoothed, evidence=True),
    Method("heatmap_by_mean", heatmap_by_mean, evidence=True),
    Method("one_triplet_gradcam", one_triplet_gradcam, evidence=True),
    Method("mean_activation", mean_activation),
    Method("mean_magnitude", mean_magnitude),
    Method("attention", attention),
    Method("centre", centre),
    Method("random", random),
)
"""In the order of the table; the first is what the product shows."""


def _sum_3x3(heat: Floats) -> Floats:
    found = cv2.boxFilter(heat, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(found, np.float32)
