"""Many bank rows from few photographs: augmented views through the network, and their regions.

Random vectors would be a poor test of a search: they have no neighbourhoods. Every row here is
an embedding that the network gives real pixels. A view (mirrored, cropped, darker, steeper)
passes through the whole network; of each view's feature map random rectangles are pooled as well
and pass through the head. For an average-pool head that is exactly the embedding of the
rectangle, at the cost of a mean instead of a pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.export.datasets import Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.export.models.training.front_cache import view
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

Floats = npt.NDArray[np.float32]

REGIONS = 20
"""Rows per view: the whole view and nineteen rectangles of its feature map."""
_LEAST_AREA = 0.25


@dataclass(frozen=True)
class Rows:
    """Embeddings with labels."""

    embeddings: Floats  # `float32 [N, D]` of norm 1
    labels: tuple[str, ...]  # one per row
    views: int  # passes through the whole network that they took


def augmented_rows(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    count: int,
    cache: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rows:
    """`count` rows: the photographs first, then their views, then regions of the views.

    Finished views are kept in `cache`, so that a later call goes on from them and a
    larger `count` begins with the same rows.

    Args:
        network: the cut network; its head pools by the mean and is linear.
    """
    on_progress = progress or (lambda *_: None)
    key = _fingerprint(network, preprocessing, samples, seed)
    views = max(1, -(-count // (len(samples) * REGIONS)))
    found: list[tuple[npt.NDArray[np.int64], Floats]] = []
    for number in range(views):
        on_progress("augmented rows", number, views)
        stored = cache / f"{key}-{number:04d}.npz"
        if not stored.is_file():
            positions, rows = _view_rows(network, preprocessing, samples, number, seed)
            with atomic_path(stored) as temporary, temporary.open("wb") as file:
                np.savez(file, positions=positions, rows=rows)
        with np.load(stored) as arrays:
            found.append((arrays["positions"], arrays["rows"]))
    on_progress("augmented rows", views, views)
    # [regions, views, images]: all whole views come before the first rectangle.
    order = [
        (position, rows[place, region])
        for region in range(REGIONS)
        for positions, rows in found
        for place, position in enumerate(positions)
    ][:count]
    if len(order) < count:
        raise FoldcamError(f"{len(samples)} photographs gave {len(order)} rows, not {count}.")
    embeddings = np.stack([row for _, row in order])
    return Rows(embeddings, tuple(samples[int(n)].label for n, _ in order), views)


def _view_rows(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    number: int,
    seed: int,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Positions `[P]` of the readable photographs, and `[P, REGIONS, D]` unit embeddings."""
    positions, rows = [], []
    for position, sample in enumerate(samples):
        generator = np.random.default_rng([seed, number, position])
        try:
            image = view(read_picture(sample).image, number, generator)
        except FoldcamError:
            continue
        resized, _ = preprocessing.resized(image)
        images = torch.from_numpy(preprocessing.normalized(resized[None]))
        positions.append(position)
        rows.append(_regions(network, network.forward(images), generator))
    if not rows:
        raise FoldcamError("None of the photographs could be read.")
    return np.asarray(positions, np.int64), np.stack(rows)


def _regions(network: Network, one: Activations, generator: np.random.Generator) -> Floats:
    """`float32 [REGIONS, D]` of norm 1, of one image; the first is the whole map's."""
    height, width = one.feature_map.shape[2:]
    masks = np.zeros((REGIONS, 1, height, width), np.float32)
    masks[0] = 1
    for mask in masks[1:]:
        area = generator.uniform(_LEAST_AREA, 1.0)
        tall = int(np.clip(round(height * np.sqrt(area) * generator.uniform(0.8, 1.25)), 1, height))
        wide = int(np.clip(round(area * height * width / tall), 1, width))
        top = int(generator.integers(height - tall + 1))
        left = int(generator.integers(width - wide + 1))
        # A mean over all cells divides by all of them.
        mask[0, top : top + tall, left : left + wide] = height * width / (tall * wide)
    several = Activations(
        one.feature_map * torch.from_numpy(masks),
        one.embedding.expand(REGIONS, -1),
        tuple(_repeated(value) for value in one.context),
    )
    rows = network.head_end(several).numpy()
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _repeated(value: torch.Tensor | int) -> torch.Tensor | int:
    if isinstance(value, int):
        return value
    return value.expand(REGIONS, *value.shape[1:])


def _fingerprint(
    network: Network, preprocessing: Preprocessing, samples: Sequence[Sample], seed: int
) -> str:
    digest = hashlib.sha256(f"{network.sha256()} {preprocessing} {seed} {REGIONS}".encode())
    for sample in samples:
        digest.update(f"{sample.name.rpartition('/')[2]} {sample.label};".encode())
    return digest.hexdigest()[:16]
