"""Bytes and operations of foldcam's part of a graph, and what this processor does in a second.

The roofline model (Williams, Waterman and Patterson 2009): an operation takes no less than its
bytes over the bandwidth of the memory that they come from, and no less than its operations over
the greatest rate. Both are measured here on one thread by the library that NumPy brings (BLAS),
not taken from a data sheet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from foldcam.runtime.contract.schema import Contract

_SECONDS = 0.4
_MATRIX = 768
_LARGE = 32 << 20
_MIDDLE = 1 << 20


@dataclass(frozen=True)
class Roofline:
    """Rates of one thread, or of a device's data sheet."""

    gigaflops: float  # float32 operations, in thousands of millions a second
    memory_gigabytes: float  # read from memory, of arrays larger than every cache
    cache_gigabytes: float  # read from the cache that a bank of a few megabytes stays in

    def microseconds(self, bytes_read: float, operations: float, cached: bool) -> float:
        """Least time of an operation.

        Args:
            cached: whether the bytes are still in the cache from the image before.
        """
        rate = self.cache_gigabytes if cached else self.memory_gigabytes
        return max(bytes_read / rate, operations / self.gigaflops) / 1e3


# Data sheets: memory bandwidth, and CUDA cores x 2 x clock. Caches are left out.
DATA_SHEETS = {
    "Jetson Orin Nano 8GB": Roofline(1280.0, 102.0, 102.0),
    "Jetson AGX Orin 64GB": Roofline(5325.0, 204.8, 204.8),
}
"""102 GB/s with 1024 cores at 625 MHz, and 204.8 GB/s with 2048 cores at 1.3 GHz."""


def measured_roofline() -> Roofline:
    """Time products and dot products on one thread."""
    generator = np.random.default_rng(0)
    with threadpool_limits(1):
        left, right = generator.random((2, _MATRIX, _MATRIX), np.float32)
        flops = 2 * _MATRIX**3 / _best(lambda: left @ right)
        rates = []
        for size in (_LARGE, _MIDDLE):
            # A dot product reads two arrays and writes nothing.
            a, b = np.ones((2, size), np.float32)
            rates.append(8 * size / _best(partial(np.dot, a, b)))
    return Roofline(flops / 1e9, rates[0] / 1e9, rates[1] / 1e9)


def _best(run: Callable[[], object]) -> float:
    """Least seconds of one run: what the machine can do when nothing disturbs it."""
    run()
    least, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least


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
