"""What the gate found over time: one line of JSON per run, and a plot of them."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from foldcam.benchmarks.cost.gate.report import NAMES
from foldcam.benchmarks.cost.gate.run import RATIOS
from foldcam.runtime.system.documents import Finite, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for

_SHOWN_COMMIT = 7


def add_run(path: Path, document: Mapping[str, Any]) -> None:
    """Add a run to a history; the file and its folder are made where they are missing.

    Args:
        path: of JSON lines.
        document: as `gate_document`.

    Raises:
        FoldcamError: it cannot be written.
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
    """Every run of a history, oldest first.

    Raises:
        FoldcamError: it is missing, or a line is no run; the message names the line.
    """
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
        path: the PNG.
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
