"""How many bytes and operations foldcam's part of a graph needs for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldcam.benchmarks.studies.scale.roofline import Roofline
from foldcam.runtime.contract.schema import Contract

_BYTES = {"float32": 4, "float16": 2, "int8": 1}
# Taking four codes out of an int32 and scaling them costs a few operations a number.
_UNPACKING = 6
_CACHE_BYTES = 16 << 20


@dataclass(frozen=True)
class Part:
    """One part of what is grafted."""

    name: str  # `search`, `transfer` or `heatmap`
    bytes_read: float  # for one image
    operations: float  # for one image
    resident: float  # bytes that it chooses from: whether they fit a cache

    def microseconds(self, roofline: Roofline) -> float:
        """Least time of it."""
        cached = self.resident <= _CACHE_BYTES
        return roofline.microseconds(self.bytes_read, self.operations, cached)


def parts_of(contract: Contract) -> list[Part]:
    """Search, transfer and heatmap of a folded model."""
    bank, storage = contract.bank, contract.bank.storage
    rows, size = bank.rows, bank.embedding_size
    number = _BYTES[storage.embeddings] if storage else 4
    if storage is not None and storage.search == "lists":
        compared = storage.probes * storage.list_rows
        extra = _UNPACKING if storage.embeddings == "int8" else 0
        read = 4 * storage.lists * size + number * compared * size
        operations = 2 * storage.lists * size + (2 + extra) * compared * size
    else:
        read, operations = number * rows * size, 2 * rows * size
    channels, height, width = contract.feature_map
    cells = height * width
    return [
        Part("search", read, operations, number * rows * size),
        Part("transfer", 4 * channels * contract.transfer, channels * contract.transfer, 0),
        Part("heatmap", 4 * channels * cells, 2 * channels * cells, 4 * channels * cells),
    ]


def least_microseconds(contract: Contract, roofline: Roofline) -> dict[str, float]:
    """Part -> least time on a device."""
    return {part.name: part.microseconds(roofline) for part in parts_of(contract)}


@dataclass(frozen=True)
class PowerLaw:
    """`y = factor * x ** exponent`, fitted through logarithms."""

    exponent: float  # of the growth: 1 is proportional, 0.5 a square root
    factor: float  # at x = 1
    r2: float  # share of the variance of log y that it explains; 1 for two points
    points: int  # that were fitted


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """Fit the points whose y is positive; None of fewer than two."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    if len({a for a, _ in pairs}) < 2:
        return None
    logs = np.log(np.asarray(pairs))
    slope, offset = np.polyfit(logs[:, 0], logs[:, 1], 1)
    rest = logs[:, 1] - (slope * logs[:, 0] + offset)
    spread = float(((logs[:, 1] - logs[:, 1].mean()) ** 2).sum())
    share = 1.0 if spread == 0 else 1 - float((rest**2).sum()) / spread
    return PowerLaw(float(slope), math.exp(float(offset)), share, len(pairs))
