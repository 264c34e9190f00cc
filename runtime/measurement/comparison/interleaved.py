"""Times of several programs that are to be compared: run alternately, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_WARM_UP = 5


@dataclass(frozen=True)
class Ratio:
    """Time of one program over that of another."""

    ratio: float
    low: float
    high: float
    rounds: int

    def document(self) -> dict[str, Any]:
        """For a report."""
        return dict(vars(self))


def seconds_interleaved(
    runs: Sequence[Callable[[int], object]],
    rounds: int,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> npt.NDArray[np.float64]:
    """Seconds of each run of each program, `float64 [rounds, n]`.

    Within a round all meet the same load of the machine, in an order that is drawn again, so
    that none always follows the one that emptied the caches.

    Args:
        runs: the programs; each is called with the number of the round.
        rounds: timed rounds; a few before them warm up caches and clocks.
        clock: gives seconds; `time.thread_time` where the calling thread does all the work, which
            other programs on the machine disturb less.
    """
    generator = np.random.default_rng(seed)
    seconds = np.empty((rounds, len(runs)))
    for turn in range(-_WARM_UP, rounds):
        for place in generator.permutation(len(runs)):
            start = clock()
            runs[int(place)](turn % rounds)
            if turn >= 0:
                seconds[turn, place] = clock() - start
    return seconds


def ratio_of(times: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> Ratio:
    """Times of one program over another's, round by round, both `[rounds]`."""
    low, middle, high = np.percentile(times / others, [25, 50, 75])
    return Ratio(float(middle), float(low), float(high), len(times))
