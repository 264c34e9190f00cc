"""What this processor can do on one thread: bytes and floating-point operations a second.

The roofline model (Williams, Waterman and Patterson 2009): an operation takes no less than its
bytes over the bandwidth of the memory that they come from, and no less than its operations over
the greatest rate. Both are measured here by the library that NumPy brings (BLAS), not taken
from a data sheet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

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
