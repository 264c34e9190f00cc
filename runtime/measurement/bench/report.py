"""The timings of `runtime bench` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldcam.runtime.system.text import aligned, printable

HEADINGS = (
    "file", "runs on", "precision", "batch", "mode", "what", "p50", "p90", "p99", "max", "iqr",
    "drift", "fps", "mJ/image", "stable",
)  # fmt: skip
_SERIES = ("host", "inference", "device", "response")


def cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per series; milliseconds of a pass, unclipped."""
    rows = []
    for run in document["runs"]:
        if "problem" in run:
            continue
        mode = f"{run['rate']:g} a second" if run["rate"] else "back to back"
        for name in _SERIES:
            if name not in run:
                continue
            found = run[name]
            numbers = (f"{found[key]:.2f}" for key in ("p50", "p90", "p99", "max", "iqr"))
            moved = "" if found["drift"] is None else f"{100 * found['drift']:+.1f} %"
            first = name == "host"
            spent = f"{run['energy']['millijoules_per_image']:.1f}" if "energy" in run else ""
            rows.append(
                (
                    run["file"],
                    f"{run['backend']}, {run['runs_on']}",
                    run["precision"],
                    str(run["batch"]),
                    mode,
                    name,
                    *numbers,
                    moved,
                    f"{run['frames_per_second']:.1f}" if first and not run["rate"] else "",
                    spent if first else "",
                    ("yes" if run["stable"] else "NO") if first else "",
                )
            )
    return rows


def text(document: Mapping[str, Any]) -> str:
    """The table, the machine, and why what cannot be trusted cannot."""
    lines = aligned([HEADINGS, *cells(document)])
    lines += ["", machine_line(document["machine"])]
    wrong = (run.get("accepted_wrong") for run in document["runs"])
    lines += dict.fromkeys(f"WARNING: {sentence}" for sentence in wrong if sentence)
    for run in document["runs"]:
        where = f"{run['file']}, {run['target']}"
        if "problem" in run:
            lines.append(f"not run: {where}: {run['problem']}")
        elif not run["stable"]:
            where += f", batch {run['batch']}, {run['mode'].replace('_', ' ')}"
            lines.append(f"unstable: {where}: {'; '.join(run['reasons'])}")
        if run.get("late"):
            lines.append(f"late: {where}: {run['late']} passes began after the next frame was due")
    return "\n".join(printable(line) for line in lines)


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    parts = [f"{machine['processor']}, {machine['processors']} processors"]
    for key, title in (("gpu", ""), ("power_mode", "power mode "), ("governor", "governor ")):
        if key in machine:
            parts.append(f"{title}{machine[key]}")
    driver = machine.get("nvidia_smi", {}).get("driver_version")
    parts += [f"driver {driver}"] if driver else []
    parts += ["virtual machine"] if machine.get("virtual") else []
    return ", ".join(parts)
