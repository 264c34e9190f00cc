"""Has a figure risen? A run's measurement, judged against a baseline.

The test over repeats is exact and assumes nothing about the noise. The figure of one repeat is a
median over paired rounds: within a round the compared graphs run one after the other, in an order
drawn for each round, so that both meet the same load, and a round that something disturbed is
outvoted. Every repeat opens its graphs again, because where a graph's weights lie in memory
decides up to a percent of its time, and stays as it is until the graph is opened again: rounds
cannot show that, repeats can.

Over repeats the lower confidence bound of the median is an order statistic (Conover, *Practical
Nonparametric Statistics*, the sign test's interval): with R repeats, the k-th smallest is
greater than the true median with the probability that at most k - 1 of R coins show heads. A
figure has risen where that bound lies above the baseline's median by more than a margin: with
ten repeats, where nine of them do. The margin is half of the slowdown that must be found, so
that a clean run and a slowed one are equally far from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from foldcam.benchmarks.cost.gate.machine import Baseline, class_of, library_versions
from foldcam.benchmarks.cost.gate.measure import OVER_BASE, Timing, measured
from foldcam.benchmarks.cost.gate.subject import Subject
from foldcam.benchmarks.evaluation.documents import provenance
from foldcam.runtime.system.errors import FoldcamError

LEVEL = 0.02
"""Greatest probability that a figure whose true median is the limit is said to lie above it."""
LEAST_REPEATS = 6

Outcome = Literal["pass", "fail", "not compared"]


@dataclass(frozen=True)
class Judged:
    """One figure against its baseline."""

    name: str  # of the figure
    baseline: float | None  # its median over the baseline's repeats; None where there is none
    now: float  # median over this run's repeats
    bound: float  # the lower confidence bound of that median
    limit: float | None  # what the bound may not exceed; None where nothing is compared
    outcome: Outcome  # `pass`, `fail` or `not compared`
    reason: str = ""  # why it is not compared; empty otherwise

    @property
    def change(self) -> float | None:
        """Relative change of the median; None without a baseline."""
        return None if not self.baseline else self.now / self.baseline - 1


def bound_rank(repeats: int, level: float = LEVEL) -> int:
    """Which of the sorted repeats, counted from 1, is the lower bound of the median."""
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
        level: as `bound_rank`.
    """
    return float(np.sort(np.asarray(values, np.float64))[bound_rank(len(values), level) - 1])


def judge(
    name: str, values: Sequence[float], baseline: Sequence[float] | None, margin: float
) -> Judged:
    """Whether a figure, of which less is better, has risen by more than a margin.

    Args:
        baseline: one per repeat of the baseline; None where it does not have the figure.
        margin: relative, 0.025 for two and a half percent.
    """
    now, bound = float(np.median(values)), lower_bound(values)
    if baseline is None:
        return Judged(name, None, now, bound, None, "not compared", "not in the baseline")
    reference = float(np.median(baseline))
    limit = reference * (1 + margin)
    return Judged(name, reference, now, bound, limit, "fail" if bound > limit else "pass")


RATIOS = ("folded_over_plain", "folded_over_plain_wall", "int8_over_fp16", OVER_BASE)
TAIL = "tail_over_plain_tail"
ABSOLUTE = ("plain_milliseconds", "folded_milliseconds")
_PROBES = ("probe_product_milliseconds", "probe_copy_milliseconds")
# A machine whose own speed differs by more than that is not in the baseline's mode.
_SAME_SPEED = 0.1


@dataclass(frozen=True)
class GateOptions(Timing):
    """How a figure is measured and how far it may rise."""

    margin: float = 0.025  # of the ratios
    tail_margin: float = 0.5  # of p99 over p50, relative to the plain graph's
    absolute_margin: float = 0.15  # of the milliseconds


def measure_subject(subject: Subject, options: GateOptions) -> dict[str, Any]:
    """Everything that a baseline keeps of a run."""
    bound_rank(options.repeats)
    return {
        "subject": subject.title,
        "device": options.device,
        "versions": library_versions(options.device),
        **measured(subject, options),
        **provenance(),
    }


def base_of(document: Mapping[str, Any]) -> Baseline:
    """What was measured of the base commit, along with the run, as its baseline."""
    return Baseline(
        document["subject"], document["device"], document["machine"], document["versions"],
        document["base_figures"], "the base commit, measured along",
    )  # fmt: skip


def judged(document: Mapping[str, Any], baseline: Baseline, options: GateOptions) -> list[Judged]:
    """Each figure of a run against the baseline: ratios first, milliseconds last.

    Args:
        document: as `measure_subject` returns it.
    """
    now = class_of(document["device"], document["machine"], document["versions"])
    baseline.check(document["subject"], now)
    figures = document["figures"]
    found = [
        judge(name, figures[name], baseline.figures.get(name), options.margin)
        for name in RATIOS
        if name in figures
    ]
    found.append(judge(TAIL, figures[TAIL], baseline.figures.get(TAIL), options.tail_margin))
    other = _other_mode(document, baseline)
    for name in ABSOLUTE:
        row = judge(name, figures[name], baseline.figures.get(name), options.absolute_margin)
        if other:
            row = Judged(name, row.baseline, row.now, row.bound, None, "not compared", other)
        found.append(row)
    return found


def verdict(rows: list[Judged]) -> bool:
    """Whether nothing has risen."""
    return all(row.outcome != "fail" for row in rows)


def gate_document(
    document: Mapping[str, Any], baseline: Baseline, options: GateOptions
) -> dict[str, Any]:
    """A run and what was made of it, as one document: `passed`, `judged`, and the figures."""
    rows = judged(document, baseline, options)
    return {
        **document,
        "passed": verdict(rows),
        "class": class_of(document["device"], document["machine"], document["versions"]).title,
        "baseline": Path(baseline.where).name,
        "judged": [{**asdict(row), "change": row.change} for row in rows],
    }


def _other_mode(document: Mapping[str, Any], baseline: Baseline) -> str:
    different = baseline.same_mode(document["machine"])
    if different:
        return different
    for name in _PROBES:
        before = baseline.figures.get(name)
        if before:
            speed = float(np.median(before)) / float(np.median(document["figures"][name]))
            if abs(speed - 1) > _SAME_SPEED:
                what = name.split("_")[1]
                return f"the machine itself runs at {speed:.2f} of its speed then (a {what})"
    return ""
