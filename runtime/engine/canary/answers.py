"""From the outputs for a probe picture to the answer that a contract holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.canary import MOST_CELLS, MOST_NUMBERS, ProbeAnswer, packed
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
)
from foldcam.runtime.engine.canary.pictures import hashed

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

NUMBERS = (NEIGHBOR, SIMILARITY, RUNNER_UP, RUNNER_UP_SIMILARITY, ESTIMATE)
MAPS = (HEATMAP, HEATMAP_LOWER, CONTRIBUTION, CONTRAST)
_SKETCH_SEED = (1 << 20) + 1


def answer_of(seed: int, outputs: Mapping[str, Array]) -> ProbeAnswer:
    """What a model answered, as a contract holds it."""
    embedding = outputs[EMBEDDING][0].astype(np.float64)
    return ProbeAnswer(
        seed=seed,
        embedding=packed(sketch(embedding)),
        length=float(np.linalg.norm(embedding)),
        numbers={name: number(outputs[name]) for name in NUMBERS if name in outputs},
        maps={name: packed(coarse(outputs[name])) for name in MAPS if name in outputs},
    )


def number(output: Array) -> float:
    """The first number of an output for one picture."""
    return float(output.reshape(-1)[0])


def sketch(embedding: Doubles) -> Doubles:
    """An embedding in at most `MOST_NUMBERS` numbers that keep cosines to a few percent of 1 - c.

    Longer ones are added up in as many sums, with signs, both by a hash of the place: the count
    sketch (Charikar et al. 2002), whose dot products are those of the vectors on average.
    """
    if len(embedding) <= MOST_NUMBERS:
        return embedding
    places = hashed(_SKETCH_SEED, len(embedding))
    signs = np.where(places & np.uint64(1), 1.0, -1.0)
    sums = (places >> np.uint64(1)) % np.uint64(MOST_NUMBERS)
    return np.bincount(sums.astype(np.int64), signs * embedding, MOST_NUMBERS).astype(np.float64)


def coarse(output: Array) -> Doubles:
    """The map `[1, 1, h, w]` of one picture averaged over at most 8 x 8 cells, flat."""
    map_ = output[0, 0].astype(np.float64)
    for axis in (0, 1):
        size = map_.shape[axis]
        cells = min(size, MOST_CELLS)
        starts = np.arange(cells) * size // cells
        widths = np.diff(np.append(starts, size))
        sums = np.add.reduceat(map_, starts, axis=axis)
        map_ = sums / (widths[:, None] if axis == 0 else widths)
    flat: Doubles = map_.ravel()
    return flat
