"""`foldcam bench gate` as one call: measure, and judge against a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.cost.gate.baseline import Baseline
from foldcam.benchmarks.cost.gate.machine import Device, class_of, library_versions
from foldcam.benchmarks.cost.gate.measure import OVER_BASE, measured
from foldcam.benchmarks.cost.gate.statistics import Judged, bound_rank, judge
from foldcam.benchmarks.cost.gate.subject import Subject
from foldcam.benchmarks.evaluation.provenance import provenance

RATIOS = ("folded_over_plain", "folded_over_plain_wall", "int8_over_fp16", OVER_BASE)
TAIL = "tail_over_plain_tail"
ABSOLUTE = ("plain_milliseconds", "folded_milliseconds")
_PROBES = ("probe_product_milliseconds", "probe_copy_milliseconds")
# A machine whose own speed differs by more than that is not in the baseline's mode.
_SAME_SPEED = 0.1


@dataclass(frozen=True)
class GateOptions:
    """How a figure is measured and how far it may rise.

    Attributes:
        device: `cpu` or `cuda`, or `tensorrt` or `rtx`, which run engines.
        repeats: times that everything is opened again.
        rounds: paired runs in each.
        margin: of the ratios.
        tail_margin: of p99 over p50, relative to the plain graph's.
        absolute_margin: of the milliseconds.
        seed: of images and orders.
        clock: megahertz that the GPU is locked at; None takes the target that it says itself.
        any_clock: whether to measure whatever the clocks are.
    """

    device: Device = "cpu"
    repeats: int = 10
    rounds: int = 60
    margin: float = 0.025
    tail_margin: float = 0.5
    absolute_margin: float = 0.15
    seed: int = 0
    clock: float | None = None
    any_clock: bool = False


def measure_subject(subject: Subject, options: GateOptions) -> dict[str, Any]:
    """Everything that a baseline keeps of a run.

    Args:
        subject: graphs, or engines where the device runs those.
        options: how.

    Raises:
        FoldcamError: too few repeats, a graph cannot be run, or the clocks are not steady.
    """
    bound_rank(options.repeats)
    found = measured(
        subject, options.repeats, options.rounds, options.device, options.seed,
        options.clock, options.any_clock,
    )  # fmt: skip
    return {
        "subject": subject.title,
        "device": options.device,
        "versions": library_versions(options.device),
        **found,
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
        baseline: of the same subject and class of machine.
        options: the margins.

    Raises:
        FoldcamError: the baseline is of another subject or class of machine.
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
