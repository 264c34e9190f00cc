"""The gate's verdict, for a terminal and for a job summary or a comment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldcam.benchmarks.evaluation.markdown import table
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
