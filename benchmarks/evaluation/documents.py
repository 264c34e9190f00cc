"""What evaluations leave behind: documents with their intervals, and where they come from."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation.bootstrap import Interval
from foldcam.runtime.system.files import atomic_path

Progress = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and how much there is."""


def provenance() -> dict[str, Any]:
    """`command`, `date` (UTC) and `commit` of the run that is under way.

    The command names programs and folders without the place where they are: a result is for
    others to read.
    """
    words = [Path(sys.argv[0]).name, *(_shown(word) for word in sys.argv[1:])]
    return {
        "command": shlex.join(words),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
    }


def _shown(word: str) -> str:
    return Path(word).name if os.sep in word and Path(word).is_absolute() else word


def commit() -> str:
    """The revision of this checkout, marked where files differ from it; empty without git."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_text(path: Path, text: str) -> None:
    """Write a page, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document, whole or not at all."""
    write_text(path, json.dumps(document, indent=1, sort_keys=True) + "\n")


def interval_document(interval: Interval) -> dict[str, float]:
    """Mean, low, high, rounded to what the sample can tell."""
    return {name: round(value, 5) for name, value in vars(interval).items()}


def intervals_document(
    table: Mapping[str, Mapping[str, Interval]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> metric -> mean, low, high."""
    return {
        name: {metric: interval_document(value) for metric, value in row.items()}
        for name, row in table.items()
    }
