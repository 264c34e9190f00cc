"""Feature maps kept between the two passes that a head which is not linear needs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from foldcam.export.networks.cut import Activations

LIMIT_BYTES = 1 << 30
"""Memory for kept activations: 4,000 images of 1280 x 7 x 7, or 70,000 of their sums."""


class FeatureCache:
    """Keeps batches of activations until the limit is reached; later ones are let go.

    Args:
        limit_bytes: the largest size of all kept tensors together.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._kept: list[tuple[list[int], Activations]] = []

    def keep(self, positions: list[int], activations: Activations) -> None:
        """Keep a batch if it still fits.

        Args:
            positions: the positions of its images in the list of samples.
            activations: one row per position.
        """
        tensors = [activations.feature_map, activations.embedding, *activations.context]
        size = sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
        if self._used + size <= self._limit:
            self._used += size
            self._kept.append((positions, activations))

    def clear(self) -> None:
        """Let everything go, and keep nothing any more."""
        self._kept.clear()
        self._limit = 0

    def __iter__(self) -> Iterator[tuple[list[int], Activations]]:
        return iter(self._kept)
