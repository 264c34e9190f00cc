"""What a process holds: memory, threads, descriptors; and whether it grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

BLOCKS = 20


@dataclass(frozen=True)
class Footprint:
    """A process at one moment.

    Attributes:
        resident: bytes of memory.
        threads: that run, of any library.
        descriptors: that are open.
    """

    resident: int
    threads: int
    descriptors: int


def footprint() -> Footprint:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Footprint(
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        threads=len(os.listdir("/proc/self/task")),  # noqa: PTH208
        descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    )


@dataclass(frozen=True)
class Slope:
    """Growth per step with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether growth is more than chance."""
        return self.low > 0.0


def slope(steps: Sequence[float], values: Sequence[float], level: float = 0.95) -> Slope:
    """Least-squares slope through the means of `BLOCKS` blocks, with Student's interval.

    Neighbouring samples of resident memory are nearly equal, so the samples themselves would
    pretend to a certainty that is not there; means of blocks are nearly independent.

    Args:
        steps: where the values were taken, rising.
        values: as many.
        level: of the interval.

    Raises:
        ValueError: fewer than three samples.
    """
    if len(steps) != len(values) or len(steps) < 3:
        raise ValueError(f"a slope needs at least three samples, got {len(values)}")
    blocks = min(BLOCKS, len(steps))
    x = np.array([part.mean() for part in np.array_split(np.asarray(steps, float), blocks)])
    y = np.array([part.mean() for part in np.array_split(np.asarray(values, float), blocks)])
    fit = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.5 + level / 2, blocks - 2)) * float(fit.stderr)
    return Slope(float(fit.slope), float(fit.slope) - reach, float(fit.slope) + reach)
