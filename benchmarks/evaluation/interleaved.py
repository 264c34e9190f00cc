"""Timing in turn within one process: what is compared meets the same load."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """Seconds of one run by two clocks, `float64 [rounds]` each.

    Attributes:
        wall: what a user waits.
        processor: of the calling thread alone, which does all the work: other programs on
            the machine disturb it less.
    """

    wall: Times
    processor: Times


Run = Callable[[int], "tuple[float, float] | None"]
"""Round number -> its own seconds `(wall, processor)` where another process measured them."""


def interleaved_runs(
    runs: Mapping[str, Run],
    rounds: int,
    seed: int = 0,
    warm_up: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Seconds of each run, all of them once in every round.

    The order within a round is drawn again each time, so that none always follows the one that
    emptied the caches.

    Args:
        runs: name -> what is timed, called with the number of the round.
        rounds: timed rounds.
        seed: of the orders.
        warm_up: rounds before, untimed.
        on_progress: called with the rounds done and in all.
    """
    generator = np.random.default_rng(seed)
    names = list(runs)
    seconds = {name: Timed(np.empty(rounds), np.empty(rounds)) for name in names}
    for number in range(-warm_up, rounds):
        for position in generator.permutation(len(names)):
            name = names[int(position)]
            wall, processor = time.perf_counter(), time.thread_time()
            own = runs[name](number)
            processor, wall = time.thread_time() - processor, time.perf_counter() - wall
            if number >= 0:
                seconds[name].wall[number], seconds[name].processor[number] = own or (
                    wall,
                    processor,
                )
        if on_progress and number >= 0:
            on_progress(number + 1, rounds)
    return seconds


def median_ratio(times: Times, plain: Times, draws: int, seed: int = 0) -> Interval:
    """Median over rounds of one run's time over another's, with a bootstrap interval.

    Within a round both meet the same load, which a ratio of two medians would not know.

    Args:
        times: `float64 [rounds]`.
        plain: `float64 [rounds]`, measured in the same rounds.
        draws: of the bootstrap.
        seed: of the draws.
    """
    return bootstrap(times / plain, lambda ratios: float(np.median(ratios)), draws, seed)
