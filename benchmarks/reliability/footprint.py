"""What a process holds: memory, threads, descriptors; and whether it grows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
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


def slope(steps: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> Slope:
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
    across, up = np.asarray(steps, float), np.asarray(values, float)
    if len(across) != len(up) or len(across) < 3:
        raise ValueError(f"a slope needs at least three samples, got {len(up)}")
    blocks = min(BLOCKS, len(across))
    x = np.array([part.mean() for part in np.array_split(across, blocks)])
    y = np.array([part.mean() for part in np.array_split(up, blocks)])
    fit = stats.linregress(x, y)
    reach = float(stats.t.ppf(0.5 + level / 2, blocks - 2)) * float(fit.stderr)
    return Slope(float(fit.slope), float(fit.slope) - reach, float(fit.slope) + reach)
