"""Whether two backends give the same answers, output by output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldcam.runtime.backends import Array, Backend, dtype_of
from foldcam.runtime.comparison.figures import cosines
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.images.preprocess import Preprocessing

MEASURES = {
    EMBEDDING: "1 - cosine",
    HEATMAP: "absolute",
    HEATMAP_LOWER: "absolute",
    SIMILARITY: "absolute",
    NEIGHBOR: "share of other rows",
    ESTIMATE: "relative",
}
# fp32 leaves room for TensorFloat-32, whose mantissa has the 10 bits of fp16.
_ALLOWED = {
    "fp32": {EMBEDDING: 1e-3, HEATMAP: 0.02, SIMILARITY: 2e-3, ESTIMATE: 0.01},
    "fp16": {EMBEDDING: 5e-3, HEATMAP: 0.05, SIMILARITY: 1e-2, ESTIMATE: 0.03},
    "int8": {EMBEDDING: 0.03, HEATMAP: 0.2, SIMILARITY: 0.05, ESTIMATE: 0.2},
}
_TINY = 1e-12


@dataclass(frozen=True)
class Difference:
    """One output, over all images.

    Attributes:
        output: its name.
        measure: how the difference is taken, one of the values of `MEASURES`.
        worst: over all images; infinite where a value is not finite.
        allowed: as much as the precision explains.
    """

    output: str
    measure: str
    worst: float
    allowed: float

    @property
    def good(self) -> bool:
        """Whether it is within what is allowed."""
        return self.worst <= self.allowed

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "good": self.good}


def compare(
    reference: Backend, tested: Backend, precision: str, batches: tuple[int, ...] = (1, 1, 1, 3, 3)
) -> list[Difference]:
    """Run both on the same images and compare every output that the contract promises.

    The default batches take a backend with CUDA graphs through all of its ways: enqueued,
    captured, replayed, and another batch size.

    Args:
        reference: whose answers count as right.
        tested: the other one; its contract must be the same.
        precision: the tested one's, `fp32`, `fp16` or `int8`.
        batches: the number of images in each run; every run has images of its own.

    Raises:
        FoldcamError: one of them failed.
    """
    contract = reference.contract
    allowed = _ALLOWED[precision]
    worst = {tensor.name: 0.0 for tensor in expected_tensors(contract)[1]}
    for number, rows in enumerate(batches):
        images = sample_images(contract, rows, number)
        expected, found = reference.run(images), tested.run(images)
        for name, value in _differences(expected, found, allowed[SIMILARITY]).items():
            worst[name] = max(worst[name], value)
    return [
        Difference(name, MEASURES[name], value, _allowed(allowed, name))
        for name, value in worst.items()
    ]


def sample_images(contract: Contract, rows: int, seed: int) -> Array:
    """Coloured clouds, see `clouds`, as the contract's `image`."""
    recipe = contract.preprocessing
    pixels = clouds(recipe, rows, seed)
    if contract.input_type == "uint8":
        return pixels
    batch = np.empty((rows, 3, recipe.height, recipe.width), dtype_of(contract))
    for index, image in enumerate(pixels):
        batch[index] = recipe.normalized(image)
    return batch


def clouds(recipe: Preprocessing, rows: int, seed: int) -> Array:
    """Coloured clouds: images that look like none in particular, yet excite every channel.

    Args:
        recipe: its size is theirs.
        rows: their number.
        seed: the generator's seed.

    Returns:
        `uint8 [rows, height, width, 3]` RGB.
    """
    random = np.random.default_rng(seed)
    frames = np.zeros((rows, recipe.height, recipe.width, 3))
    for cells in (2, 5, 11):
        coarse = random.random((rows, cells, cells, 3))
        y = np.arange(recipe.height) * cells // recipe.height
        x = np.arange(recipe.width) * cells // recipe.width
        frames += coarse[:, y][:, :, x]
    pixels: Array = (frames * (255 / 3)).astype(np.uint8)
    return pixels


def _differences(
    expected: dict[str, Array], found: dict[str, Array], tie: float
) -> dict[str, float]:
    near = np.abs(expected[SIMILARITY] - found[SIMILARITY])
    other = expected[NEIGHBOR] != found[NEIGHBOR]
    # Rows as similar as one another may change places, and then their heatmaps differ rightly.
    same = ~other.any(axis=1)
    result = {
        EMBEDDING: _worst(1 - cosines(expected[EMBEDDING], found[EMBEDDING])),
        SIMILARITY: _worst(near),
        NEIGHBOR: float((other & ~(near <= tie)).mean()),
    }
    for name in (HEATMAP, HEATMAP_LOWER):
        if name in expected:
            result[name] = _worst(np.abs(expected[name] - found[name])[same])
    if ESTIMATE in expected:
        scale = np.maximum(np.abs(expected[ESTIMATE]), _TINY)
        result[ESTIMATE] = _worst(np.abs(expected[ESTIMATE] - found[ESTIMATE]) / scale)
    return result


def _worst(values: Array) -> float:
    if values.size == 0:
        return 0.0
    return float(values.max()) if np.isfinite(values).all() else float("inf")


def _allowed(allowed: dict[str, float], name: str) -> float:
    if name == NEIGHBOR:
        return 0.0
    return allowed[HEATMAP if name == HEATMAP_LOWER else name]
