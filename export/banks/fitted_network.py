"""A head that cannot be differentiated, stood in for by a linear map fitted to the images.

    z = W mean(A) + b, so that a = W^T v / (h w)

`W` is the ridge regression of the head's end on the pooled feature map over the training
images: a closed form of two moments, `[K, K]` and `[K, D]`, however many images there are.
How much of `z` it explains, on images that it was not fitted to, is part of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
import torch

from foldcam.export.banks.embedding_pass import KeptPictures, batches
from foldcam.export.banks.numbers import check_finite
from foldcam.export.datasets import Sample
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

Doubles = npt.NDArray[np.float64]

MOST_IMAGES = 4096
"""Images that the map is fitted to: more would not change it, and each costs a pass."""

# Shares of the mean channel variance, tried on the images that are held out.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HELD_OUT = 5
_SUSPICIOUS = 0.5


class FittedNetwork(Network):
    """A network whose directions are pulled back through a fitted linear map.

    Args:
        weights: `float64 [D, K]`, from the pooled feature map to the head's end.
        explained: share of the variance of `z` that the map explains on held-out images.
    """

    def __init__(self, network: Network, weights: Doubles, explained: float) -> None:
        super().__init__(replace(network.points(), finer=None))
        self.network = network
        self.explained = explained
        self._weights = torch.from_numpy(weights.astype(np.float32))
        note = (
            "The head's gradient was not used (--head fitted): grad-weights come from a linear map "
            f"fitted to the training images, which explains {max(explained, 0):.0%} of the "
            "embedding's variance on images held out."
        )
        if explained < _SUSPICIOUS:
            note += " That is little: the heatmaps show what the map sees, not what the head does."
        self.notes = (*network.notes, note)

    def _trunk(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network._trunk(images)

    def _head(
        self, feature_map: torch.Tensor, *context: torch.Tensor | int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network._head(feature_map, *context)

    def embed_map(self, activations: Activations, feature_map: torch.Tensor) -> torch.Tensor:
        """See `Network.embed_map`: the network's own."""
        return self.network.embed_map(activations, feature_map)

    def pull_back_map(self, activations: Activations, directions: torch.Tensor) -> torch.Tensor:
        """The same at every position: what the pooled feature map weighs, over the area."""
        shape = activations.feature_map.shape
        channels = directions @ self._weights / (shape[2] * shape[3])
        return channels[:, :, None, None].expand(shape)

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """See `Network.to_onnx`: the network itself."""
        return self.network.to_onnx(opset)

    def _hashed(self) -> str:
        """Hash of the network itself."""
        return self.network.sha256()


def fit_head(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    kept: KeptPictures | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FittedNetwork:
    """Fit the linear map on up to `MOST_IMAGES` images, spread evenly over the samples.

    Args:
        preprocessing: how an image becomes its input.
        samples: the training images; unreadable ones are left out.
        batch_size: images per pass.
        kept: keeps the pictures for the pass that embeds them.
        progress: called with images done and images in all.
    """
    count = min(len(samples), MOST_IMAGES)
    spread = [samples[at * len(samples) // count] for at in range(count)]
    channels, size = network.feature_map_shape[0], network.embedding_size
    fitted, held_out = Moments(channels, size), Moments(channels, size)
    seen = 0
    for batch in batches(spread, preprocessing, batch_size, kept=kept):
        if batch.positions:
            activations = network.forward(batch.images)
            pooled = activations.feature_map.mean(dim=(2, 3)).double().numpy()
            ends = network.head_end(activations).double().numpy()
            check_finite(
                np.concatenate([pooled, ends], axis=1), [spread[n] for n in batch.positions]
            )
            held = (seen + np.arange(len(pooled))) % _HELD_OUT == _HELD_OUT - 1
            fitted.add(pooled[~held], ends[~held])
            held_out.add(pooled[held], ends[held])
            seen += len(pooled)
        if progress is not None:
            progress(batch.positions[-1] + 1 if batch.positions else 0, count)
    if seen < 2 * _HELD_OUT:
        raise FoldcamError(
            f"--head fitted needs at least {2 * _HELD_OUT} readable training images and got {seen}."
        )
    explained, ridge = max(
        (held_out.explained(*fitted.ridge_regression(share)), share) for share in _RIDGES
    )
    weights, _ = (fitted + held_out).ridge_regression(ridge)
    if not np.abs(weights).max() > 0 or not np.isfinite(weights).all():
        raise FoldcamError(
            "--head fitted found no linear map: the feature maps or the embeddings of all training "
            "images are the same; choose another --layer."
        )
    return FittedNetwork(network, weights, explained)


class Moments:
    """Sums over rows of `x [K]` and `y [D]` from which a regression follows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._count = 0
        self._x, self._y = np.zeros(inputs), np.zeros(outputs)
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        self._yy = np.zeros(outputs)

    def add(self, x: Doubles, y: Doubles) -> None:
        """Add rows `float64 [N, K]` and `float64 [N, D]`."""
        self._count += len(x)
        self._x += x.sum(axis=0)
        self._y += y.sum(axis=0)
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._yy += (y**2).sum(axis=0)

    def __add__(self, other: Moments) -> Moments:
        both = Moments(len(self._x), len(self._y))
        both._count = self._count + other._count
        for name in ("_x", "_y", "_xx", "_xy", "_yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def ridge_regression(self, share: float) -> tuple[Doubles, Doubles]:
        """`W [D, K]` and `b [D]` of `y = W x + b`.

        Args:
            share: the share of the mean variance of `x`, added to each; the intercept is free.
        """
        mean_x, mean_y = self._x / self._count, self._y / self._count
        covariance = self._xx / self._count - np.outer(mean_x, mean_x)
        crossed = self._xy / self._count - np.outer(mean_x, mean_y)
        ridge = share * max(float(np.trace(covariance)) / len(mean_x), 1e-30)
        weights = np.linalg.solve(covariance + ridge * np.eye(len(mean_x)), crossed).T
        return weights, mean_y - weights @ mean_x

    def explained(self, weights: Doubles, intercept: Doubles) -> float:
        """Share of the variance of `y` in these rows that `W x + b` explains; below 0 if worse
        than their mean.
        """
        variance = float((self._yy - self._y**2 / self._count).sum())
        # sum |y - W x - b|^2, multiplied out.
        error = float(self._yy.sum())
        error -= 2 * float((weights.T * self._xy).sum()) + 2 * float(intercept @ self._y)
        error += float(((weights @ self._xx) * weights).sum())
        error += 2 * float(intercept @ (weights @ self._x))
        error += self._count * float(intercept @ intercept)
        return 1 - error / variance if variance > 0 else 0.0
