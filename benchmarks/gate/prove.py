"""Does the gate catch a slowdown, and does it keep quiet where there is none?

A folded graph gets extra nodes that are calibrated to cost what is to be caught, and the gate
runs on it and on the graph as it is, each time in a process of its own and, every second time,
beside a program that keeps the memory and another processor busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.gate.baseline import Baseline
from foldcam.benchmarks.gate.measure import FOLDED, opened_on_processor
from foldcam.benchmarks.gate.planted import planted
from foldcam.benchmarks.gate.run import GateOptions, gate_document, measure_subject
from foldcam.benchmarks.gate.subject import Subject
from foldcam.benchmarks.graphs import save_graph
from foldcam.benchmarks.interleaved import interleaved_runs
from foldcam.benchmarks.localization.report import write_json
from foldcam.benchmarks.provenance import provenance
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.errors import FoldcamError

RESULT = "proof.json"
RATIO = "folded_over_plain"
_FIRST = 40
_ROUNDS = 50
_OPENINGS = 7
_CLOSE = 0.003
_TRIES = 5

_BUSY = """
import numpy
block = numpy.zeros(8 << 20, numpy.float32)
matrix = numpy.ones((256, 256), numpy.float32)
while True:
    block += 1
    matrix @ matrix
"""


@dataclass(frozen=True)
class ProofOptions:
    """What is proved.

    Attributes:
        gate: how each run measures.
        clean: runs on the graph as it is; none may fail.
        slowed: runs on the slowed graph; all must fail.
        slowdown: of the folded/plain ratio, 0.05 for five percent.
    """

    gate: GateOptions
    clean: int = 20
    slowed: int = 10
    slowdown: float = 0.05


def prove(
    subject: Subject, out: Path, options: ProofOptions, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Run the gate on clean and on slowed graphs.

    Args:
        subject: what is timed, on the CPU.
        out: folder of `proof.json` and of the slowed graph.
        options: see `ProofOptions`.
        progress: told `(stage, done, total)`.

    Returns:
        The document that was written: `passed`, what the extra nodes cost, and every run.

    Raises:
        FoldcamError: the slowdown cannot be calibrated on this machine.
    """
    progress("calibrating the slowdown", 0, 1)
    slow = out / "slowed.onnx"
    products, cost = calibrated(subject, slow, options.slowdown)
    slowed = Subject(subject.title, {**subject.files, FOLDED: slow})
    progress("baseline", 0, 1)
    first = measure_subject(subject, replace(options.gate, repeats=2 * options.gate.repeats))
    baseline = Baseline(
        first["subject"], first["device"], first["machine"], first["versions"], first["figures"],
        "the proof's baseline",
    )  # fmt: skip
    runs = []
    for kind, count, graphs in (
        ("clean", options.clean, subject),
        ("slowed", options.slowed, slowed),
    ):
        for number in range(count):
            progress(f"{kind} runs", number, count)
            runs.append(_one_run(kind, number, graphs, baseline, options))
        progress(f"{kind} runs", count, count)
    false_alarms = sum(run["kind"] == "clean" and not run["passed"] for run in runs)
    missed = sum(run["kind"] == "slowed" and run["caught"] is False for run in runs)
    document: dict[str, Any] = {
        **provenance(),
        "passed": false_alarms == 0 and missed == 0,
        "subject": subject.title,
        "machine": first["machine"],
        "versions": first["versions"],
        "clean_runs": options.clean,
        "false_alarms": false_alarms,
        "slowed_runs": options.slowed,
        "missed": missed,
        "slowdown_wanted": options.slowdown,
        "slowdown_measured": cost,
        "extra_products": products,
        "repeats": options.gate.repeats,
        "rounds": options.gate.rounds,
        "margin": options.gate.margin,
        "baseline": {
            "ratio": float(np.median(first["figures"][RATIO])),
            "figures": first["figures"],
        },
        "runs": runs,
    }
    write_json(out / RESULT, document)
    return document


def _one_run(
    kind: str, number: int, graphs: Subject, baseline: Baseline, options: ProofOptions
) -> dict[str, Any]:
    disturbed = number % 2 == 1 and (os.cpu_count() or 1) > 1
    gate = replace(options.gate, seed=1000 * (1 + number))
    with _busy_neighbour(disturbed):
        found = gate_document(measure_subject(graphs, gate), baseline, gate)
    failed = [row["name"] for row in found["judged"] if row["outcome"] == "fail"]
    return {
        "kind": kind,
        "disturbed": disturbed,
        "passed": found["passed"],
        # Only the ratio of folding counts: another figure would catch it by chance.
        "caught": RATIO in failed,
        "failed": failed,
        "ratios": found["figures"][RATIO],
        "wall_ratios": found["figures"][f"{RATIO}_wall"],
        "judged": [
            {key: row[key] for key in ("name", "now", "bound", "limit", "outcome", "reason")}
            for row in found["judged"]
        ],
    }


def calibrated(subject: Subject, path: Path, slowdown: float) -> tuple[int, dict[str, float]]:
    """Write a slowed graph, and say how many products it has and what they cost.

    Args:
        subject: the graphs.
        path: where the slowed one is written.
        slowdown: wanted, of the folded graph's time.

    Returns:
        The number of products, and the ratio of the slowed graph's processor time to the folded
        one's: `mean`, `low` and `high` over several openings of both.

    Raises:
        FoldcamError: no length of the chain comes near on this machine.
    """
    folded = load_message(subject.files[FOLDED])
    products = _FIRST
    for _ in range(_TRIES):
        save_graph(planted(folded, products), path)
        cost = _cost(path, subject.files[FOLDED])
        if abs(cost["mean"] - 1 - slowdown) <= _CLOSE:
            return products, cost
        per_product = max(cost["mean"] - 1, 1e-4) / products
        products = max(1, round(slowdown / per_product))
    raise FoldcamError(
        f"No chain of products costs {slowdown:.0%} on this machine within {_CLOSE:.1%}; the last "
        f"of {products} cost {cost['mean'] - 1:.1%}: try again when it is quiet."
    )


def _cost(slow: Path, folded: Path) -> dict[str, float]:
    """Ratio of the processor times: median over openings, and the least and the greatest of them.

    As in the gate, an opening is worth up to a percent, and a hundred rounds do not show it.
    """
    ratios = []
    for opening in range(_OPENINGS):
        runs = {
            name: opened_on_processor(file, np.random.default_rng(0))
            for name, file in (("slow", slow), (FOLDED, folded))
        }
        seconds = interleaved_runs(runs, _ROUNDS, opening)
        ratios.append(float(np.median(seconds["slow"].processor / seconds[FOLDED].processor)))
    return {"mean": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)}


@contextmanager
def _busy_neighbour(wanted: bool) -> Iterator[None]:
    """A program beside the measurement, for as long as the block lasts."""
    if not wanted:
        yield
        return
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", _BUSY], env=environment)
    try:
        # Not on the processor that the gate binds itself to.
        others = os.sched_getaffinity(0) - {max(os.sched_getaffinity(0))}
        if others:
            os.sched_setaffinity(process.pid, others)
        yield
    finally:
        process.kill()
        process.wait()
