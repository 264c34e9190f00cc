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
    """A process at one moment."""

    resident: int  # bytes of memory
    threads: int  # that run, of any library
    descriptors: int  # that are open


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
    """Mean growth from block to block of `BLOCKS` blocks' medians, with Student's interval.

    A level that wanders is as likely as not to end higher than it began, and a line through it
    looks certain (Granger and Newbold 1974, "Spurious regressions in econometrics"): resident
    memory takes a page now and then, when more frames than ever before are under way at once.
    What is independent are its increments, so the interval is theirs.
    """
    across, up = np.asarray(steps, float), np.asarray(values, float)
    if len(across) != len(up) or len(across) < 3:
        raise ValueError(f"a slope needs at least three samples, got {len(up)}")
    blocks = min(BLOCKS, len(across))
    x = np.array([part.mean() for part in np.array_split(across, blocks)])
    # A median has a step that falls into its block on one side of it, and not on both.
    y = np.array([np.median(part) for part in np.array_split(up, blocks)])
    growth = np.diff(y) / np.diff(x)
    error = float(growth.std(ddof=1) / np.sqrt(len(growth)))
    reach = float(stats.t.ppf(0.5 + level / 2, len(growth) - 1)) * error
    mean = float(growth.mean())
    return Slope(mean, mean - reach, mean + reach)
