"""Percentiles and rates over runs of any length, in memory that does not grow."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np

_LOW_MS = 1e-3
_HIGH_MS = 1e7
_STEP = 1.01


class Percentiles:
    """A histogram of durations in steps of one percent.

    Durations are exact to 1 % between a microsecond and three hours, however many
    there are.
    """

    def __init__(self) -> None:
        bins = math.ceil(math.log(_HIGH_MS / _LOW_MS) / math.log(_STEP)) + 1
        # Written to, not only set aside: pages that rare durations touch for the first time
        # would be memory that grows for days.
        self._counts = np.full(bins, 0, np.int64)
        self._sum = 0.0
        self.count = 0
        self.most = 0.0
        """The longest in milliseconds, not rounded to a step."""

    def add(self, milliseconds: float) -> None:
        """Count one duration in milliseconds."""
        clamped = min(max(milliseconds, _LOW_MS), _HIGH_MS)
        self._counts[round(math.log(clamped / _LOW_MS) / math.log(_STEP))] += 1
        self._sum += milliseconds
        self.most = max(self.most, milliseconds)
        self.count += 1

    def at(self, share: float) -> float:
        """The duration in milliseconds below which `share` in [0, 1] of all lie; 0.0 of none."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(share * self.count))
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(_LOW_MS * _STEP**index)

    @property
    def mean(self) -> float:
        """Mean in milliseconds; 0.0 of none."""
        return self._sum / self.count if self.count else 0.0


class Rate:
    """Events per second over the most recent ones."""

    def __init__(self, window: int = 64) -> None:
        self._times: deque[float] = deque(maxlen=window)

    def tick(self) -> None:
        """Count one event now."""
        self._times.append(time.monotonic())

    @property
    def per_second(self) -> float:
        """0.0 until there are two events."""
        if len(self._times) < 2:
            return 0.0
        spent = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / spent if spent > 0 else 0.0
