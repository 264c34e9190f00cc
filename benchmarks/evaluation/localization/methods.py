"""The heatmaps that are compared, each `(activations, question) -> relu(sum_k a_k S_k)`.

A question is a bank row: "what speaks for the similarity to this row's class?". Every
method that can be asked is asked the same question about the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation.localization.metrics import centred_blob
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import all_triplets
from foldcam.export.networks.cut import Activations, Network

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

TRANSFERRED = "transferred"
REFERENCE = "aggregated_backprop"
METHODS = (
    TRANSFERRED,
    REFERENCE,
    "one_triplet_gradcam",
    "one_triplet_gradcam_on_grid",
    "one_triplet_before_norm",
    "proxy_map",
    "mean_activation",
    "centred_blob",
    "uniform",
    "random",
)
"""In the order of the table.

`aggregated_backprop` is what transfer must equal, not a baseline. In a grid, grad-weights
are those of the single image that is asked for, as the transferred ones are; only
`one_triplet_gradcam_on_grid` back-propagates the triplet from the grid itself, which
spares it most of what the normalisation takes away. Elsewhere both are the same.
"""
ON_GRID = "one_triplet_gradcam_on_grid"


@dataclass(frozen=True)
class Question:
    """What is asked of each image of a batch."""

    rows: Integers  # `int64 [N]`, the bank row that the folded graph returned
    seed: int  # of the triplets and of the random map


class Methods:
    """Every method, for one network and its bank.

    Args:
        bank: its training rows, as the folded model holds them; the directions of the reference and
            of the baselines come from the same rows.
    """

    def __init__(self, network: Network, bank: Bank) -> None:
        self._network = network
        self._bank = bank
        self._mean = bank.mean_summands
        _, classes = np.unique(bank.row_labels(), return_inverse=True)
        self._classes: Integers = classes.astype(np.int64)
        self._all_triplets = all_triplets(bank.embeddings, self._classes).values
        self._weights: dict[str, Callable[[Activations, Question], Floats]] = {
            TRANSFERRED: self._transferred,
            REFERENCE: self._aggregated,
            "one_triplet_gradcam": self._one_triplet_gradcam,
            ON_GRID: self._one_triplet_gradcam,
            "one_triplet_before_norm": self._one_triplet_before_norm,
            "proxy_map": self._proxy,
        }

    @property
    def classes(self) -> Integers:
        """`int64 [rows]`: the class number of each bank row."""
        return self._classes

    def direction(self, rows: Integers) -> Floats:
        """`float32 [N, D]`: the all-triplets direction of the rows' classes."""
        return self._all_triplets[rows]

    def one_triplet(self, question: Question) -> Floats:
        """`float32 [N, D]`: `-dL/da = 2 (p - n)` of one random triplet per image."""
        generator = np.random.default_rng(question.seed)
        values = np.empty((len(question.rows), self._bank.embedding_size), np.float32)
        for number, row in enumerate(question.rows):
            same = self._classes == self._classes[row]
            positive = generator.choice(np.flatnonzero(same))
            negative = generator.choice(np.flatnonzero(~same))
            values[number] = 2 * (self._bank.embeddings[positive] - self._bank.embeddings[negative])
        return values

    def grad_weights(self, name: str, activations: Activations, question: Question) -> Floats:
        """`float32 [N, K]` of a method that weights channels."""
        return self._weights[name](activations, question)

    def weights_channels(self, name: str) -> bool:
        """Whether the method is a weighting of the feature map's channels."""
        return name in self._weights

    def asks_the_picture(self, name: str) -> bool:
        """Whether grad-weights are taken at the picture that is explained, such as a grid."""
        return name == ON_GRID or (name == TRANSFERRED and self._bank.rule == "own")

    def mapped(self, name: str, grad_weights: Floats, feature_map: Floats) -> Floats:
        """The heatmap of a method's grad-weights, `float32 [N, h, w]`.

        What is folded, and its reference, compare each position with its mean over the training
        images where the folded model does so.
        """
        if self._mean is not None and name in (TRANSFERRED, REFERENCE):
            feature_map = feature_map - self._mean
        return weighted(grad_weights, feature_map)

    def heatmaps(self, name: str, activations: Activations, question: Question) -> Floats:
        """`float32 [N, h, w]`, not negative, not scaled."""
        feature_map = activations.feature_map.numpy()
        if name in self._weights:
            return self.mapped(name, self.grad_weights(name, activations, question), feature_map)
        count, _, height, width = feature_map.shape
        if name == "mean_activation":
            mean: Floats = np.maximum(feature_map.mean(axis=1), 0)
            return mean
        return image_free(name, count, height, width, question.seed)

    def _transferred(self, activations: Activations, question: Question) -> Floats:
        rows = self._bank.grad_weights[self._bank.grad_index[question.rows]]
        return self._pull_back(activations, rows) if self._bank.rule == "own" else rows

    def _aggregated(self, activations: Activations, question: Question) -> Floats:
        return self._pull_back(activations, self.direction(question.rows))

    def _one_triplet_before_norm(self, activations: Activations, question: Question) -> Floats:
        return self._pull_back(activations, self.one_triplet(question))

    def _one_triplet_gradcam(self, activations: Activations, question: Question) -> Floats:
        """Plain Grad-CAM: the triplet loss of the normalised embedding, through everything.

        The gradient at the feature map does not depend on whether back-propagation
        goes on into the backbone, which the library implementations do and discard.
        """
        through = through_normalization(
            self._network.head_end(activations), torch.from_numpy(self.one_triplet(question))
        )
        return self._pull_back(activations, through.numpy())

    def _proxy(self, activations: Activations, question: Question) -> Floats:
        """EmbeddingCAM's proxy: the mean of the class's normalised embeddings."""
        count = int(self._classes.max()) + 1
        sums = np.zeros((count, self._bank.embedding_size))
        np.add.at(sums, self._classes, self._bank.embeddings)
        proxies = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        chosen = proxies[self._classes[question.rows]].astype(np.float32)
        return self._pull_back(activations, chosen)

    def _pull_back(self, activations: Activations, directions: Floats) -> Floats:
        weights: Floats = self._network.pull_back(activations, torch.from_numpy(directions)).numpy()
        return weights


def weighted(grad_weights: Floats, feature_map: Floats) -> Floats:
    """`relu(sum_k a_k A_k)`: `[N, K]` and `[N, K, h, w]` -> `float32 [N, h, w]`."""
    heat: Floats = np.maximum(np.einsum("nk,nkhw->nhw", grad_weights, feature_map), 0)
    return heat


def image_free(name: str, count: int, height: int, width: int, seed: int) -> Floats:
    """Maps that do not look at the image: `centred_blob`, `uniform`, `random`."""
    if name == "centred_blob":
        one = centred_blob(height, width).astype(np.float32)
        return np.repeat(one[None], count, axis=0)
    if name == "uniform":
        return np.ones((count, height, width), np.float32)
    if name == "random":
        generator = np.random.default_rng([seed, 1])
        return generator.random((count, height, width), np.float32)
    raise KeyError(name)


def through_normalization(head_end: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Pull directions back through `e = z / |z|`.

    `J^T v = (v - (v . e) e) / |z|`: the component along `e` is lost.

    Args:
        head_end: `float32 [N, D]`, `z`.
        directions: `float32 [N, D]`, `v` in the normalised space.
    """
    norms = head_end.norm(dim=1, keepdim=True)
    unit = head_end / norms
    along = (directions * unit).sum(dim=1, keepdim=True)
    pulled: torch.Tensor = (directions - along * unit) / norms
    return pulled
