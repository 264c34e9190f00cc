"""Runs the reliability checks, short or in full.

    python -m foldcam.benchmarks.studies.reliability                       # short, as in CI
    python -m foldcam.benchmarks.studies.reliability --full --store        # keep the figures
    python -m foldcam.benchmarks.studies.reliability --only cuts,soak

Exit status 3 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib import import_module, util
from pathlib import Path
from typing import Any, Protocol, cast

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.reliability.progress_lines import ProgressLines
from foldcam.runtime.system.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.files import atomic_path

NAMES = ("soak", "cuts", "cameras", "rtsp", "mutations", "kills", "clients", "explain", "page")
RESULTS = Path(__file__).resolve().parents[2] / "results" / "reliability"


class Check(Protocol):
    """A module of this package."""

    def check(self, full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
        """Run it; `passed` is in what it returns."""
        ...

    def rows(self, document: dict[str, Any]) -> list[tuple[str, str]]:
        """What and how much, for people."""
        ...


def available() -> dict[str, Check]:
    """The checks that are there, by name."""
    found = [
        name for name in NAMES if util.find_spec(f"foldcam.benchmarks.studies.reliability.{name}")
    ]
    return {
        name: cast(Check, import_module(f"foldcam.benchmarks.studies.reliability.{name}"))
        for name in found
    }


def text_of(name: str, check: Check, document: dict[str, Any]) -> str:
    """One check's result for a terminal."""
    if document.get("skipped"):
        return f"{name}: skipped: {document['skipped']}"
    verdict = "passed" if document["passed"] else "FAILED"
    lines = [f"{name}: {verdict} in {document['seconds']:.0f} s"]
    lines += [f"  {what:<60} {figure}" for what, figure in check.rows(document)]
    return "\n".join(lines)


def main() -> None:
    """Run the checks that are asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m foldcam.benchmarks.studies.reliability",
        description=(__doc__ or "").splitlines()[0],
        epilog="Example: python -m foldcam.benchmarks.studies.reliability --full --only cuts",
    )
    parser.add_argument(
        "--full", action="store_true", help="run the long form, whose figures are published"
    )
    parser.add_argument(
        "--only", default="", help=f"run only these, separated by commas: {', '.join(NAMES)}"
    )
    parser.add_argument("--out", type=Path, help="folder for what the checks make; kept")
    parser.add_argument("--store", action="store_true", help=f"results go to {RESULTS.name}/")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    checks = available()
    wanted = [name for name in given.only.split(",") if name] or list(checks)
    if missing := [name for name in wanted if name not in checks]:
        parser.error(f"no check is called {missing[0]}: there are {', '.join(checks)}")
    documents: dict[str, dict[str, Any]] = {}
    progress = ProgressLines()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        for name in wanted:
            documents[name] = _run(name, checks[name], given.full, folder, progress)
            if given.store and not documents[name].get("skipped"):
                _store(name, documents[name])
    if given.json:
        print(json.dumps(documents, indent=2))
    else:
        print("\n".join(text_of(name, checks[name], documents[name]) for name in documents))
    if not all(document["passed"] for document in documents.values()):
        sys.exit(ExitStatus.GATE_FAILED)


def _run(name: str, check: Check, full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    document = check.check(full, own, lambda stage, *counts: progress(f"{name}: {stage}", *counts))
    return {**document, "full": full, "seconds": round(time.monotonic() - begun, 1)}


def _store(name: str, document: dict[str, Any]) -> None:
    with atomic_path(RESULTS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def markdown_table(name: str, document: dict[str, Any]) -> str:
    """One check's figures."""
    lines = ["| what | figure |", "|---|---|"]
    lines += [f"| {what} | {figure} |" for what, figure in available()[name].rows(document)]
    verdict = "passed" if document["passed"] else "**did not pass**"
    form = "full form" if document["full"] else "short form"
    return "\n".join([*lines, "", f"The {form} {verdict}, in {document['seconds']:.0f} s."])


if __name__ == "__main__":
    try:
        main()
    except FoldcamError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(ExitStatus.USER_ERROR)
