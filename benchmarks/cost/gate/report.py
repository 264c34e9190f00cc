"""The gate's verdict for a terminal and a job summary, and its runs over time."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from foldcam.benchmarks.cost.gate.judging import RATIOS
from foldcam.benchmarks.evaluation.markdown import table
from foldcam.runtime.system.documents import Finite, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for
from foldcam.runtime.system.text import aligned

NAMES = {
    "folded_over_plain": "folded / plain, processor time",
    "folded_over_plain_wall": "folded / plain, wall time",
    "int8_over_fp16": "INT8 / FP16",
    "folded_over_base": "folded / folded by the base commit",
    "tail_over_plain_tail": "p99 / p50, over the plain graph's",
    "plain_milliseconds": "plain graph, ms (processor time on a CPU)",
    "folded_milliseconds": "folded graph, ms (processor time on a CPU)",
}
_HEADINGS = ("", "figure", "baseline", "now", "change", "lower bound", "limit")
_MARKS = {"pass": "ok", "fail": "SLOWER", "not compared": "-"}


def text(document: Mapping[str, Any]) -> str:
    """A table, and one line for the verdict."""
    lines = aligned([_HEADINGS, *_cells(document)])
    return "\n".join([*lines, *_notes(document), "", sentence(document)])


def markdown(document: Mapping[str, Any]) -> str:
    """The same for a job's page."""
    head = "passed" if document["passed"] else "**failed**"
    lines = [f"### Latency gate: {head}", "", sentence(document), ""]
    lines.append(table(_HEADINGS, _cells(document)))
    notes = _notes(document)
    return "\n".join([*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def sentence(document: Mapping[str, Any]) -> str:
    """The verdict with what it rests on."""
    where = (
        f"{document['subject']}, {document['class']}, {document['repeats']} repeats of "
        f"{document['rounds']} paired rounds, against {document['baseline']}"
    )
    failed = [row for row in document["judged"] if row["outcome"] == "fail"]
    if not failed:
        return f"Nothing is slower: {where}."
    names = ", ".join(f"{NAMES[row['name']]} {100 * row['change']:+.1f} %" for row in failed)
    return f"Slower: {names}: {where}."


def _notes(document: Mapping[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in document["judged"]:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(NAMES[row["name"]])
    lines = [f"not compared: {' and '.join(names)}: {why}" for why, names in found.items()]
    return [*lines, *_clock_notes(document)]


def _clock_notes(document: Mapping[str, Any]) -> list[str]:
    """What is known of the clocks of a GPU."""
    if document["device"] == "cpu":
        return []
    samples = document["clocks"]
    clocks = [sample["mhz"] for sample in samples if "mhz" in sample]
    if not clocks:
        return ["the GPU's clock cannot be read here: nobody knows whether it was steady"]
    targets = [
        f", target {sample['target_mhz']:.0f}" for sample in samples if "target_mhz" in sample
    ]
    return [f"clock {min(clocks):.0f} to {max(clocks):.0f} MHz{''.join(targets[:1])}"]


def _cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            _MARKS[row["outcome"]],
            NAMES[row["name"]],
            _number(row["baseline"]),
            _number(row["now"]),
            "" if row["change"] is None else f"{100 * row['change']:+.1f} %",
            _number(row["bound"]),
            _number(row["limit"]),
        )
        for row in document["judged"]
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


_SHOWN_COMMIT = 7


def add_run(path: Path, document: Mapping[str, Any]) -> None:
    """Add a run to a history; the file and its folder are made where they are missing.

    Args:
        document: as `gate_document`.
    """
    ratios = {name: document["figures"][name] for name in RATIOS if name in document["figures"]}
    line = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": document["commit"],
        "class": document["class"],
        "subject": document["subject"],
        "baseline": document["baseline"],
        "passed": document["passed"],
        "ratios": {name: round(float(np.median(values)), 5) for name, values in ratios.items()},
    }
    with user_errors_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One short write to the end: runs that end at once do not mix their lines.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, (json.dumps(line, sort_keys=True) + "\n").encode())
        finally:
            os.close(file)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Every run of a history, oldest first."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoldcamError(f"{path} is no history of the gate: {error}.") from None
    return [_run(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


_Run = TypedDict(
    "_Run",
    {
        "date": str, "commit": str, "class": str, "subject": str, "passed": bool,
        "ratios": dict[str, Finite],
    },
)  # fmt: skip


def _run(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise FoldcamError(f"{where}, is no run of the gate: delete that line.") from None
    ratios = found.get("ratios") if isinstance(found, dict) else None
    if isinstance(ratios, dict):
        found["ratios"] = {name: ratios[name] for name in RATIOS if name in ratios}
    return dict(read_document(_Run, found, where))


def plot(path: Path, runs: list[dict[str, Any]]) -> None:
    """The ratios of every run, a panel for each class of machines and each subject.

    Args:
        runs: as `read_history`, at least one.
    """
    from foldcam.benchmarks.evaluation.figure import new_figure, save_figure

    panels: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        panels.setdefault(f"{run['class']}\n{run['subject']}", []).append(run)
    figure, axes = new_figure(len(panels), 1, figsize=(9, 3.2 * len(panels)), squeeze=False)
    for axis, (title, members) in zip(axes[:, 0], panels.items(), strict=True):
        for name in RATIOS:
            places = [at for at, run in enumerate(members) if name in run["ratios"]]
            values = [members[at]["ratios"][name] for at in places]
            if places:
                axis.plot(places, values, marker="o", markersize=4, label=NAMES[name])
            failed = [at for at in places if not members[at]["passed"]]
            axis.plot(
                failed, [members[at]["ratios"][name] for at in failed], "rx", markersize=10,
                label="_failed",
            )  # fmt: skip
        step = -(-len(members) // 8)
        axis.set_xticks(
            range(0, len(members), step),
            [f"{run['date'][:10]}\n{run['commit'][:_SHOWN_COMMIT]}" for run in members[::step]],
            fontsize=7,
        )
        axis.set_title(title, fontsize=9)
        axis.set_ylabel("ratio (a cross: the gate failed)", fontsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, path)
