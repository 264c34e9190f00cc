"""The head tried on the first images of a pass, and what a second pass will need kept of it.

A head that is not linear needs two passes, between which feature maps are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from foldcam.export.banks import embedding_pass
from foldcam.export.banks.embedding_pass import LoadedBatch, batches
from foldcam.export.banks.grad_weights import HeadTraits, head_traits
from foldcam.export.datasets import Sample
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.images.preprocess import Preprocessing

_FEWEST = 2
# More images would say no more, and their gradients take memory.
_MOST = 16


class HeadTrial:
    """Learns from a pass over images what the head's Jacobian allows; no image is read for it.

    Attributes:
        cache: what was kept for that; empty for a linear head.
        probe: activations that the head was tried on, None before there are any.
        traits: what the head showed on them.
    """

    def __init__(self, network: Network, *, again: bool = True) -> None:
        self._network = network
        self._again = again
        self._waiting: list[torch.Tensor] = []
        self._watched = 0
        self.cache = FeatureCache()
        self.probe: Activations | None = None
        self.traits: HeadTraits | None = None

    def watch(self, batch: LoadedBatch, activations: Activations, before: int) -> None:
        """Take a batch of the pass, as `embed` gives it."""
        # A pass that goes on in the middle leaves the trial to its first images, so that it
        # comes out as without the interruption.
        if self.probe is None and before == self._watched:
            self._watched += len(batch.images)
            self._try(batch.images, activations)
        if self._again and not (self.traits and self.traits.linear):
            self.cache.keep(batch.positions, self._network.for_pull_back(activations))

    def settle(
        self,
        preprocessing: Preprocessing,
        samples: Sequence[Sample],
        batch_size: int,
        known: Collection[str] = (),
    ) -> tuple[Activations, HeadTraits]:
        """The outcome, after the pass; where its first blocks were there already, their images
        are read once more.
        """
        if self.probe is None and not self._watched:
            size = min(batch_size, embedding_pass.BLOCK)
            for batch in batches(samples, preprocessing, size, known=known):
                if batch.positions:
                    self._try(batch.images, None)
                if self.probe is not None:
                    break
        if self.probe is None:
            # How the head answers two images is compared, and one was all there is.
            self._set(self._network.forward(self._waiting[0].repeat(_FEWEST, 1, 1, 1)))
        assert self.probe is not None
        assert self.traits is not None
        return self.probe, self.traits

    def _try(self, images: torch.Tensor, activations: Activations | None) -> None:
        if not self._waiting and _FEWEST <= len(images) <= _MOST and activations is not None:
            self._set(activations)
            return
        self._waiting.append(images)
        first = torch.cat(self._waiting)[:_MOST]
        if len(first) >= _FEWEST:
            self._set(self._network.forward(first))

    def _set(self, probe: Activations) -> None:
        self._waiting.clear()
        self.probe = probe
        self.traits = head_traits(self._network, probe)
        if self.traits.linear:
            self.cache.clear()


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
