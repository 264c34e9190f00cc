"""What came of walking through the workflows: the log of `tools/walk_workflows.py` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.runtime.system.text import shorten

RESULT = "workflows.json"
_WIDTH = 40


def walk_table(document: Mapping[str, Any]) -> str:
    """A row per job: what of its `run:` steps was executed, and how."""
    rows = []
    for name, steps in document["jobs"].items():
        runs = [step for step in steps if step["kind"] == "run"]
        left = [_name(step) for step in runs if step["how"].startswith("left out")]
        short = [_name(step) for step in runs if "short form" in step["how"]]
        failed = [_name(step) for step in runs if step["how"].startswith("FAILED")]
        rows.append(
            [
                name,
                f"{len(runs) - len(left)} of {len(runs)}",
                ", ".join(failed) or "none",
                ", ".join(short),
                ", ".join(left) if runs else "the job, by its condition",
                f"{sum(step['seconds'] for step in steps)}",
            ]
        )
    return markdown.table(
        ["job", "run steps executed", "failed", "in short form", "left out", "s"], rows
    )


def _name(step: Mapping[str, Any]) -> str:
    return shorten(str(step["name"]).replace("|", "/"), _WIDTH)


def walk_setting(document: Mapping[str, Any]) -> str:
    """When, of which commit, and what was replaced by what."""
    short = "; ".join(dict.fromkeys(document["short_forms"].values()))
    return f"{document['date']}, commit {document['commit']}. Short forms: {short}."
