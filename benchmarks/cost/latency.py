"""Timings of folded models in Markdown, and every sample of them in a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.figure import new_figure, save_figure
from foldcam.runtime.measurement.bench.report import HEADINGS, cells, machine_line

_SERIES = {"host": "#d1495b", "inference": "#30638e", "device": "#2a9d8f"}
_MOST_PANELS = 12


def markdown_table(document: Mapping[str, Any]) -> str:
    """One row per series; columns that are empty throughout are left out."""
    rows = cells(document)
    kept = [n for n in range(len(HEADINGS)) if any(row[n] for row in rows)]
    return markdown.table([HEADINGS[n] for n in kept], [[row[n] for n in kept] for row in rows])


def setting(document: Mapping[str, Any]) -> str:
    """What it was measured on, when, and by which command."""
    settings = document["settings"]
    threads = settings["threads"]
    pinned = settings["pinned_to"]
    width, height = settings["frame"]
    parts = [
        machine_line(document["machine"]),
        f"{threads} thread{'' if threads == 1 else 's'}" if threads else "the library's threads",
        *([f"bound to processor {', '.join(map(str, pinned))}"] if pinned else []),
        f"frames of {width} x {height}",
        f"{settings['passes']} passes after {settings['warm_up']}",
        document["date"],
    ]
    command = f": `{document['command']}`" if document.get("command") else ""
    return ", ".join(parts) + command


def plot(document: Mapping[str, Any], path: Path, source: str = "") -> None:
    """Every sample over the run, and how they are distributed, one row per run."""
    runs = [run for run in document["runs"] if "problem" not in run][:_MOST_PANELS]
    figure, axes = new_figure(
        len(runs), 2, figsize=(12, 1 + 2.4 * len(runs)), squeeze=False, width_ratios=(3, 2)
    )
    for (over_time, shares), run in zip(axes, runs, strict=True):
        for name, color in _SERIES.items():
            if name not in run:
                continue
            samples = np.asarray(run[name]["samples"])
            over_time.plot(samples, ".", markersize=3, color=color, label=name)
            shares.plot(np.sort(samples), (np.arange(len(samples)) + 1) / len(samples), color=color)
            for share, key in ((0.5, "p50"), (0.99, "p99")):
                shares.plot(run[name][key], share, "o", markersize=4, color=color)
        mode = f"{run['rate']:g} a second" if run["rate"] else "back to back"
        unstable = "" if run["stable"] else ", UNSTABLE"
        over_time.set_title(
            f"{run['file']}, {run['precision']}, {run['runs_on']}, batch {run['batch']}, "
            f"{mode}{unstable}",
            fontsize=8,
        )
        over_time.set(ylabel="ms", ylim=(0, None))
        shares.set(ylabel="share of passes", xlim=(0, None))
        over_time.legend(fontsize=7, loc="lower right")
        for axis in (over_time, shares):
            axis.grid(alpha=0.25)
    axes[-1][0].set_xlabel("pass")
    axes[-1][1].set_xlabel("ms (dots: p50, p99)")
    figure.suptitle(machine_line(document["machine"]), fontsize=9)
    save_figure(figure, path, source, 100)
