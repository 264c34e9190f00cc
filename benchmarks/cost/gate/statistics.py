"""Has a figure risen? An exact test over repeats that assumes nothing about the noise.

The figure of one repeat is a median over paired rounds: within a round the compared graphs run
one after the other, in an order drawn for each round, so that both meet the same load, and a
round that something disturbed is outvoted. Every repeat opens its graphs again, because where a
graph's weights lie in memory decides up to a percent of its time, and stays as it is until the
graph is opened again: rounds cannot show that, repeats can.

Over repeats the lower confidence bound of the median is an order statistic (Conover, *Practical
Nonparametric Statistics*, the sign test's interval): with R repeats, the k-th smallest is
greater than the true median with the probability that at most k - 1 of R coins show heads. A
figure has risen where that bound lies above the baseline's median by more than a margin: with
ten repeats, where nine of them do. The margin is half of the slowdown that must be found, so
that a clean run and a slowed one are equally far from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foldcam.runtime.system.errors import FoldcamError

LEVEL = 0.02
"""Greatest probability that a figure whose true median is the limit is said to lie above it."""
LEAST_REPEATS = 6

Outcome = Literal["pass", "fail", "not compared"]


@dataclass(frozen=True)
class Judged:
    """One figure against its baseline.

    Attributes:
        name: of the figure.
        baseline: its median over the baseline's repeats; None where there is none.
        now: median over this run's repeats.
        bound: the lower confidence bound of that median.
        limit: what the bound may not exceed; None where nothing is compared.
        outcome: `pass`, `fail` or `not compared`.
        reason: why it is not compared; empty otherwise.
    """

    name: str
    baseline: float | None
    now: float
    bound: float
    limit: float | None
    outcome: Outcome
    reason: str = ""

    @property
    def change(self) -> float | None:
        """Relative change of the median; None without a baseline."""
        return None if not self.baseline else self.now / self.baseline - 1


def bound_rank(repeats: int, level: float = LEVEL) -> int:
    """Which of the sorted repeats, counted from 1, is the lower bound of the median.

    Args:
        repeats: their number.
        level: greatest probability that the bound lies above the true median.

    Raises:
        FoldcamError: so few repeats bound nothing at that level.
    """
    tail, rank = 0.0, 0
    for below in range(repeats):
        tail += math.comb(repeats, below) / 2**repeats
        if tail > level:
            break
        rank = below + 1
    if rank == 0:
        raise FoldcamError(
            f"{repeats} repeats are too few for a test at {level:g}: take at least "
            f"{LEAST_REPEATS} (--repeats)."
        )
    return rank


def lower_bound(values: Sequence[float], level: float = LEVEL) -> float:
    """The lower confidence bound of the median.

    Args:
        values: one figure per repeat.
        level: as `bound_rank`.
    """
    return float(np.sort(np.asarray(values, np.float64))[bound_rank(len(values), level) - 1])


def judge(
    name: str, values: Sequence[float], baseline: Sequence[float] | None, margin: float
) -> Judged:
    """Whether a figure, of which less is better, has risen by more than a margin.

    Args:
        name: of the figure.
        values: one per repeat of this run.
        baseline: one per repeat of the baseline; None where it does not have the figure.
        margin: relative, 0.025 for two and a half percent.
    """
    now, bound = float(np.median(values)), lower_bound(values)
    if baseline is None:
        return Judged(name, None, now, bound, None, "not compared", "not in the baseline")
    reference = float(np.median(baseline))
    limit = reference * (1 + margin)
    return Judged(name, reference, now, bound, limit, "fail" if bound > limit else "pass")
