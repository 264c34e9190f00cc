"""What follows from a bank's embeddings and labels alone: directions and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def class_sums(embeddings: Floats, labels: npt.NDArray[np.integer]) -> Doubles:
    """`float64 [C, D]`: the sum of each class's embeddings.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: integers `[N]`, class numbers 0..C-1, each present.
    """
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]))
    # Added up in float64 without a copy of all rows in it.
    np.add.at(sums, labels, embeddings)
    return sums


def triplets_of_sums(sums: Doubles, counts: npt.NDArray[np.integer]) -> Floats:
    """The direction of each class by all triplets: `v = mean(class) - mean(others)`.

    The mean over all triplets of the gradient of `(|a - p|^2 - |a - n|^2) / 2`, see
    `export.objectives.directions.all_triplets`.

    Args:
        sums: `float64 [C, D]`, of each class's embeddings.
        counts: integers `[C]`, images of each class, at least 1.

    Returns:
        `float32 [C, D]`.
    """
    if len(counts) < 2:
        raise FoldcamError(
            "All images have one label: a triplet needs an image of another label, so add one."
        )
    means = sums / counts[:, None]
    others = (sums.sum(axis=0) - sums) / (counts.sum() - counts)[:, None]
    directions: Floats = (means - others).astype(np.float32)
    return directions


def bank_sha256(
    arrays: Sequence[npt.NDArray[np.generic]],
    labels: Sequence[LabelRun],
    *further: str | bytes,
) -> str:
    """The hash by which a bank is known."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps([[run.name, run.count] for run in labels]).encode())
    for part in further:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
