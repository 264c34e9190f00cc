"""`foldcam bench gate --prove`: does the gate catch a slowdown, and nothing else?

A folded graph gets extra nodes that are calibrated to cost what is to be caught, and the gate
runs on it and on the graph as it is, each time in a process of its own and, every second time,
beside a program that keeps the memory and another processor busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from foldcam.benchmarks.cost.gate.engines import with_engines
from foldcam.benchmarks.cost.gate.judging import GateOptions, gate_document, measure_subject
from foldcam.benchmarks.cost.gate.machine import Baseline
from foldcam.benchmarks.cost.gate.measure import opened
from foldcam.benchmarks.cost.gate.subject import FOLDED, Subject
from foldcam.benchmarks.evaluation.documents import Progress, provenance, write_json
from foldcam.benchmarks.evaluation.graphs import save_graph
from foldcam.benchmarks.evaluation.interleaved import interleaved_runs
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.schema import IMAGE, SIMILARITY
from foldcam.runtime.system.errors import FoldcamError

RESULT = "proof.json"
RATIO, WALL_RATIO = "folded_over_plain", "folded_over_plain_wall"
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

_ABOVE = 1e6
"""Added to what the extra nodes compute, which makes it greater than any similarity."""
_ROWS, _WIDTH = 16, 256


@dataclass(frozen=True)
class ProofOptions:
    """What is proved."""

    gate: GateOptions  # how each run measures
    clean: int = 20  # runs on the graph as it is; none may fail
    slowed: int = 10  # runs on the slowed graph; all must fail
    slowdown: float = 0.05  # of the folded/plain ratio, 0.05 for five percent


def prove(subject: Subject, out: Path, options: ProofOptions, progress: Progress) -> dict[str, Any]:
    """Run the gate on clean and on slowed graphs.

    Args:
        subject: what is timed: graphs, or engines with the graphs that they were built from.
        out: folder of `proof.json` and of the slowed graph.

    Returns:
        The document that was written: `passed`, what the extra nodes cost, and every run.
    """
    progress("calibrating the slowdown", 0, 1)
    ratio = RATIO if options.gate.device == "cpu" else WALL_RATIO
    slowed, products, cost = calibrated(
        subject, out / "slowed.onnx", options.slowdown, options.gate.device
    )
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
        "device": options.gate.device,
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
            "ratio": float(np.median(first["figures"][ratio])),
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
    ratio = RATIO if gate.device == "cpu" else WALL_RATIO
    return {
        "kind": kind,
        "disturbed": disturbed,
        "passed": found["passed"],
        # Only the ratio of folding counts: another figure would catch it by chance.
        "caught": ratio in failed,
        "failed": failed,
        "ratios": found["figures"][ratio],
        "wall_ratios": found["figures"][WALL_RATIO],
        "judged": [
            {key: row[key] for key in ("name", "now", "bound", "limit", "outcome", "reason")}
            for row in found["judged"]
        ],
    }


def calibrated(
    subject: Subject, path: Path, slowdown: float, device: str = "cpu"
) -> tuple[Subject, int, dict[str, float]]:
    """Write a slowed graph, and say how many products it has and what they cost.

    Returns:
        The subject with the slowed graph as its folded one, the number of products, and the
        ratio of the slowed one's time (of the processor on a CPU) to the folded one's: `mean`,
        `low` and `high` over several openings of both.
    """
    graphs = subject.graphs or subject.files
    folded = load_message(graphs[FOLDED])
    products = _FIRST
    for _ in range(_TRIES):
        save_graph(planted(folded, products), path)
        # The plain graph stays what it is: only the slowed one is built again.
        made = with_engines(Subject(subject.title, {FOLDED: path}), device, path.parent)
        slowed = Subject(
            subject.title,
            {**subject.files, **made.files},
            {**subject.graphs, **made.graphs},
        )
        cost = _cost(slowed, subject, device)
        if abs(cost["mean"] - 1 - slowdown) <= _CLOSE:
            return slowed, products, cost
        per_product = max(cost["mean"] - 1, 1e-4) / products
        products = max(1, round(slowdown / per_product))
    raise FoldcamError(
        f"No chain of products costs {slowdown:.0%} on this machine within {_CLOSE:.1%}; the last "
        f"of {products} cost {cost['mean'] - 1:.1%}: try again when it is quiet."
    )


def _cost(slowed: Subject, subject: Subject, device: str) -> dict[str, float]:
    """Ratio of the times: median over openings, and the least and the greatest of them.

    As in the gate, an opening is worth up to a percent, and a hundred rounds do not show it.
    """
    ratios = []
    for opening in range(_OPENINGS):
        with ExitStack() as stack:
            runs = {
                name: opened(each, device, 0, stack, only=FOLDED)[FOLDED]
                for name, each in (("slow", slowed), (FOLDED, subject))
            }
            seconds = interleaved_runs(runs, _ROUNDS, opening)
            slow, folded = seconds["slow"], seconds[FOLDED]
        on_cpu = device == "cpu"
        times = slow.processor / folded.processor if on_cpu else slow.wall / folded.wall
        ratios.append(float(np.median(times)))
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


def planted(model: onnx.ModelProto, products: int) -> onnx.ModelProto:
    """The graph with a chain of matrix products of the image's first pixels behind it.

    Each multiplies `[16, 256]` by an orthogonal `[256, 256]`, which keeps the numbers in range. The
    similarity is the less of itself and a greater number made of the chain's maximum: the answers
    stay the same, and no optimizer can know that.

    Args:
        model: with an `image` of at least 4096 numbers, run with one image. Not changed.
    """
    slow = onnx.ModelProto()
    slow.CopyFrom(model)
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(_WIDTH, _WIDTH)))[0]
    constants: dict[str, Any] = {
        "planted.matrix": matrix.astype(np.float32),
        "planted.flat": np.array([-1], np.int64),
        "planted.start": np.array([0], np.int64),
        "planted.end": np.array([_ROWS * _WIDTH], np.int64),
        "planted.shape": np.array([_ROWS, _WIDTH], np.int64),
        "planted.above": np.array(_ABOVE, np.float32),
    }
    slow.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    _rename(slow.graph, SIMILARITY, "planted.similarity")
    nodes = [
        # The image may be of bytes, which TensorRT casts and does nothing else with.
        helper.make_node("Cast", [IMAGE], ["planted.image"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Reshape", ["planted.image", "planted.flat"], ["planted.pixels"]),
        helper.make_node(
            "Slice", ["planted.pixels", "planted.start", "planted.end"], ["planted.first"]
        ),
        helper.make_node("Reshape", ["planted.first", "planted.shape"], ["planted.0"]),
    ]
    nodes += [
        helper.make_node(
            "MatMul", [f"planted.{number}", "planted.matrix"], [f"planted.{number + 1}"]
        )
        for number in range(products)
    ]
    nodes += [
        helper.make_node("ReduceMax", [f"planted.{products}"], ["planted.maximum"], keepdims=0),
        helper.make_node("Abs", ["planted.maximum"], ["planted.size"]),
        helper.make_node("Add", ["planted.size", "planted.above"], ["planted.greater"]),
        helper.make_node("Min", ["planted.similarity", "planted.greater"], [SIMILARITY]),
    ]
    slow.graph.node.extend(nodes)
    return slow


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def proof_text(document: Mapping[str, Any]) -> str:
    """What `--prove` found, in sentences."""
    cost = document["slowdown_measured"]
    return (
        f"{document['extra_products']} extra products slow the folded graph by "
        f"{100 * (cost['mean'] - 1):.1f} % ({100 * (cost['low'] - 1):.1f} to "
        f"{100 * (cost['high'] - 1):.1f}).\n"
        f"caught: {document['slowed_runs'] - document['missed']} of {document['slowed_runs']} "
        f"slowed runs\n"
        f"false alarms: {document['false_alarms']} of {document['clean_runs']} clean runs\n"
        f"{'The gate holds.' if document['passed'] else 'The gate does NOT hold.'}"
    )


def proof_table(document: Mapping[str, Any]) -> str:
    """Clean and slowed runs, alone and beside a busy program."""
    lines = [
        "| runs | beside a busy program | number | called slower | folded / plain of each run |",
        "|---|---|---|---|---|",
    ]
    for kind in ("clean", "slowed"):
        for disturbed in (False, True):
            runs = [
                run
                for run in document["runs"]
                if run["kind"] == kind and run["disturbed"] == disturbed
            ]
            if not runs:
                continue
            ratios = [_folding(run)["now"] for run in runs]
            called = sum(not run["passed"] if kind == "clean" else run["caught"] for run in runs)
            lines.append(
                f"| {kind} | {'yes' if disturbed else 'no'} | {len(runs)} | {called} | "
                f"{min(ratios):.4f} to {max(ratios):.4f} |"
            )
    limit = _folding(document["runs"][0])["limit"]
    lines.append(f"\nBaseline {document['baseline']['ratio']:.4f}, limit {limit:.4f}.")
    return "\n".join(lines)


def proof_setting(document: Mapping[str, Any]) -> str:
    """What was measured, on what, when, and by which command."""
    cost, machine = document["slowdown_measured"], document["machine"]
    return (
        f"{document['subject']}; {document['repeats']} repeats of {document['rounds']} paired "
        f"rounds a run; {document['extra_products']} extra matrix products cost "
        f"{100 * (cost['mean'] - 1):.1f} % ({100 * (cost['low'] - 1):.1f} to "
        f"{100 * (cost['high'] - 1):.1f}); {machine['processor']}"
        f"{' (virtual machine)' if machine.get('virtual') else ''}, {document['date']}: "
        f"`{document['command']}`"
    )


def _folding(run: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {row["name"]: row for row in run["judged"]}
    row = names.get(RATIO, names.get(WALL_RATIO))
    assert row is not None
    found: Mapping[str, Any] = row
    return found
