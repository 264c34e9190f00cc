"""Banks of up to a million plausible rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_NOISE = 0.05


@dataclass(frozen=True)
class GrownRows:
    """Rows, the real ones first."""

    embeddings: Floats  # `float32 [N, D]` of norm 1
    labels: tuple[str, ...]  # one per row
    real: int  # how many of them the network gave to pixels; the rest are interpolations


def grown(embeddings: Floats, labels: Sequence[str], count: int, seed: int = 0) -> GrownRows:
    """`count` rows: those that are there, and then points between two of one label.

    A point lies anywhere between its two rows, moved by noise of five percent of a row's length,
    and on the unit sphere again: the neighbourhoods stay those of real embeddings, and no row
    stands twice.

    Args:
        embeddings: `float32 [R, D]` of norm 1.
    """
    real = min(count, len(labels))
    if count <= len(labels):
        return GrownRows(embeddings[:count], tuple(labels[:count]), real)
    generator = np.random.default_rng(seed)
    names, classes = np.unique(np.asarray(labels), return_inverse=True)
    members = [np.flatnonzero(classes == number) for number in range(len(names))]
    missing = count - real
    first = generator.integers(0, real, missing)
    second = np.empty(missing, np.int64)
    for number, of_label in enumerate(members):
        asked = np.flatnonzero(classes[first] == number)
        second[asked] = of_label[generator.integers(0, len(of_label), len(asked))]
    share = generator.random((missing, 1), np.float32)
    size = embeddings.shape[1]
    between = share * embeddings[first] + (1 - share) * embeddings[second]
    between += (_NOISE / np.sqrt(size)) * generator.standard_normal((missing, size), np.float32)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-12)
    everything = np.concatenate([embeddings, between.astype(np.float32)])
    return GrownRows(everything, (*labels, *(labels[int(n)] for n in first)), real)
