"""Thousands of wrong inputs: each is read, or refused in one sentence; nothing else happens."""

from __future__ import annotations

import json
import random
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.reliability import originals
from foldcam.benchmarks.studies.reliability.mutants import mutated_bytes, mutated_json, mutated_text

SEED = 7
LIMIT_SECONDS = 20.0
_WORKERS = 2
_FULL = {
    "image": 3500, "video": 1600, "model": 1600, "metadata": 1300, "config": 1300, "rule": 400,
    "address": 300, "boxes": 300,
}  # fmt: skip
_FULL_HTTP = 2000
_SHORT_SHARE = 0.05


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    kind: str  # a key of `benchmarks.studies.reliability.victim.READERS`
    number: int  # within its kind
    suffix: str  # of its file
    data: bytes  # its bytes


@dataclass
class Tally:
    """What became of the inputs."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Give wrong inputs to long-lived processes.

    Args:
        full: 10,000 inputs and more, else a twentieth.
        folder: for inputs; those that did harm stay in `failures/`.
    """
    counts = {
        kind: max(1, round(count * (1.0 if full else _SHORT_SHARE)))
        for kind, count in _FULL.items()
        if kind != "boxes" or util.find_spec("foldcam.runtime.sources.regions") is not None
    }
    http = _http(round(_FULL_HTTP * (1.0 if full else _SHORT_SHARE)))
    total = sum(counts.values())
    cases = all_cases(SEED, counts, folder)
    tally, lock = Tally(), threading.Lock()

    def work(number: int) -> None:
        with _Victim(folder / f"worker-{number}") as victim:
            while True:
                with lock:
                    case = next(cases, None)
                if case is None:
                    return
                _judge(case, victim.read(case), tally, folder / "failures")
                progress("wrong inputs", sum(tally.outcomes.values()), total)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = {
        kind: {
            outcome: tally.outcomes[kind, outcome]
            for outcome in ("read", "refused", "failed")
            if tally.outcomes[kind, outcome] or outcome != "failed"
        }
        for kind in counts
    }
    document = {
        "passed": not tally.failures
        and sum(tally.outcomes.values()) == total
        and (http is None or bool(http["passed"])),
        "seed": SEED,
        "limit_seconds": LIMIT_SECONDS,
        "inputs": total + (0 if http is None else int(http["sent"])),
        "kinds": kinds,
        "failures": tally.failures[:50],
        "failed": len(tally.failures),
    }
    if http is not None:
        document["http"] = http
    return document


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What and how much."""
    found = [
        (
            f"mutated inputs: {kind}",
            f"{sum(counts.values())}: {counts['read']} read, {counts['refused']} refused, "
            f"{counts.get('failed', 0)} crashes, hangs or tracebacks",
        )
        for kind, counts in document["kinds"].items()
    ]
    http = document.get("http")
    if http is not None:
        found.append(
            (
                "mutated inputs: HTTP requests",
                f"{http['sent']}: {len(http['faults'])} inner errors, "
                f"{http['unanswered_probes']} ordinary requests without answer",
            )
        )
    return [*found, ("mutated inputs in all", f"{document['inputs']}, seed {document['seed']}")]


def all_cases(seed: int, counts: dict[str, int], folder: Path) -> Iterator[Case]:
    """The wrong inputs of a seed, kind by kind.

    Args:
        seed: the same one gives the same inputs, as far as OpenCV and torch encode and export the
            originals alike.
    """
    makers = _makers(folder)
    for kind, count in counts.items():
        for number in range(count):
            generator = random.Random(f"{seed}:{kind}:{number}")
            suffix, data = makers[kind](generator)
            yield Case(kind, number, suffix, data)


Maker = Callable[[random.Random], tuple[str, bytes]]


def _makers(folder: Path) -> dict[str, Maker]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures, films = originals.images(), originals.videos(folder)
    paths = [originals.folded_model(folder, kind) for kind in ("float32", "uint8")]
    models = [path.read_bytes() for path in paths]
    documents = [originals.metadata_of(path) for path in paths]

    def file_of(files: dict[str, bytes]) -> Maker:
        def make(generator: random.Random) -> tuple[str, bytes]:
            name = generator.choice(sorted(files))
            # Now and then of another format than the name says.
            others = list(files.values()) if generator.random() < 0.2 else [files[name]]
            return Path(f"x{name}").suffix, mutated_bytes(generator, others)

        return make

    def text_of(suffix: str, texts: Sequence[str]) -> Maker:
        return lambda generator: (suffix, mutated_text(generator, texts))

    def boxes(generator: random.Random) -> tuple[str, bytes]:
        line = originals.BOXES.splitlines()
        if generator.random() < 0.5:
            return ".jsonl", mutated_text(generator, [originals.BOXES])
        return ".jsonl", b"\n".join(mutated_json(generator, line) for _ in range(3))

    return {
        "image": file_of(pictures),
        "video": file_of(films),
        "model": lambda generator: (".onnx", mutated_bytes(generator, models)),
        "metadata": lambda generator: (".json", mutated_json(generator, documents)),
        "config": text_of(".toml", [originals.CONFIG]),
        "rule": text_of(".txt", originals.RULES),
        "address": text_of(".txt", originals.ADDRESSES),
        "boxes": boxes,
    }


def _judge(case: Case, answer: dict[str, Any], tally: Tally, failures: Path) -> None:
    outcome = answer["outcome"]
    known = outcome in ("read", "refused")
    with tally.lock:
        tally.outcomes[case.kind, outcome if known else "failed"] += 1
        if known:
            return
        failures.mkdir(parents=True, exist_ok=True)
        name = f"{case.kind}-{case.number}{case.suffix}"
        (failures / name).write_bytes(case.data)
        tally.failures.append({"input": name, **answer})


class _Victim:
    """A process that is given inputs, and another one when it is gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Victim:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, case: Case) -> dict[str, Any]:
        """Its answer; `crashed` or `hung` if it has none."""
        path = self._folder / f"case{case.suffix}"
        path.write_bytes(case.data)
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{case.kind} {path}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:
            return self._gone()
        if not select.select([process.stdout], [], [], LIMIT_SECONDS)[0]:
            self._end()
            return {"outcome": "hung", "reason": f"no answer in {LIMIT_SECONDS:g} s"}
        line = process.stdout.readline()
        if not line:
            return self._gone()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "foldcam.benchmarks.studies.reliability.victim"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self._process

    def _gone(self) -> dict[str, Any]:
        process, self._process = self._process, None
        assert process is not None
        return {"outcome": "crashed", "reason": f"exit status {process.wait()}"}

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _http(count: int) -> dict[str, Any] | None:
    """Wrong requests to the live page, where it is; None where it is not."""
    name = "foldcam.benchmarks.studies.reliability.http_cases"
    if util.find_spec(name) is None:
        return None
    cases: Any = import_module(name)
    document: dict[str, Any] = cases.fuzz(SEED, count)
    return document
