"""Runs that fail while frames are in flight: each ends in order, with one sentence.

    python -m foldcam.benchmarks.studies.reliability.endings          # 200 runs of each kind
    python -m foldcam.benchmarks.studies.reliability.endings 20

Exit status 3 if a run ended by a signal, or said something else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldcam.benchmarks.studies.reliability.originals import folded_model
from foldcam.benchmarks.studies.reliability.progress_lines import ProgressLines
from foldcam.runtime.system.errors import ExitStatus

RUNS = 200
_SOURCE = "test://?size=320x240&frames=2000"
_LIMIT_SECONDS = 120.0
_OWN_CODE = """
from foldcam.runtime import FoldcamError

class Full:
    name, may_skip, output = "full", False, None
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, seen):
        if seen.frame.index == 3: raise FoldcamError("the shelf is full")

def sink(sources): return Full()
def boxes(image): raise ValueError("no boxes")
"""
KINDS: Mapping[str, str] = {
    "the reader goes away": '"$@" --jsonl - | head -1 >/dev/null; exit ${PIPESTATUS[0]}',
    "an own sink fails": 'exec "$@" --sink endings_code:sink',
    "a detector fails": 'exec "$@" --detector endings_code:boxes',
    "the disk is full": 'exec "$@" --jsonl /dev/full',
    "a file may not grow": 'ulimit -f 40; exec "$@" --jsonl out.jsonl',
}
"""What goes wrong, as a shell runs it; `$@` is the run."""


@dataclass(frozen=True)
class Ending:
    """How one run ended: its exit status, and what it said on standard error."""

    status: int
    said: str

    @property
    def in_order(self) -> bool:
        """Whether it ended by itself, with status 1 and one sentence."""
        return (
            self.status == ExitStatus.USER_ERROR
            and self.said.startswith("error: ")
            and self.said.count("\n") == 1
        )


def endings(kind: str, runs: int, model: Path, folder: Path) -> Sequence[Ending]:
    """Run one kind so many times."""
    (folder / "endings_code.py").write_text(_OWN_CODE, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "foldcam.runtime.cli.runtime",
        "run",
        str(model),
        "--source",
        _SOURCE,
        "--quiet",
    ]
    found = []
    for _ in range(runs):
        done = subprocess.run(
            ["bash", "-c", KINDS[kind], "bash", *command], cwd=folder, capture_output=True,
            text=True, timeout=_LIMIT_SECONDS, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found.append(Ending(done.returncode, done.stderr))
    return found


def main() -> None:
    """Run every kind and print how the runs ended."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    progress = ProgressLines()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folded_model(folder)
        for number, kind in enumerate(KINDS):
            progress(f"endings: {kind}", number, len(KINDS))
            others = [each for each in endings(kind, runs, model, folder) if not each.in_order]
            failed = failed or bool(others)
            print(f"{kind:24} {runs - len(others)} of {runs} in order")
            for each in others[:3]:
                print(f"  status {each.status}: {each.said!r}")
    if failed:
        sys.exit(ExitStatus.GATE_FAILED)


if __name__ == "__main__":
    main()
