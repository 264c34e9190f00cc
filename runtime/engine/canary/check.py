"""Before a model or an engine is used: does it answer rightly on this machine?"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar

from foldcam.runtime.contract.canary import PROBES_VERSION
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.engine.canary.asking import Runs, ask
from foldcam.runtime.engine.canary.verdict import LIMITS, ProbeVerdict, judge
from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, cache_root, digest_of, sha256_of_file
from foldcam.runtime.system.text import printable

KEPT_FROM = 16 << 20
"""Bytes of a model from which on its hash is kept."""
_HASH_LENGTH = 64
_PROCESSORS = Path("/proc/cpuinfo")


class _Opened(Runs, Protocol):
    accepted_wrong: str | None

    def close(self) -> None: ...


Backend = TypeVar("Backend", bound=_Opened)

HOW_TO_GET_PROBES = "foldcam probes {model} adds some"
"""What is said of a file of before there were probe pictures."""


class WrongAnswersError(FoldcamError):
    """A library's answers are not those of the float model."""


def checked(
    backend: Backend,
    path: Path,
    sha256: str | None = None,
    *,
    accept_wrong: bool = False,
    served: bool = False,
) -> Backend:
    """A backend that answers rightly; shown the probe pictures unless it passed before.

    Args:
        backend: just opened; a model whose bank is an input has none yet.
        sha256: of that file; None reads it.
        accept_wrong: whether wrong answers are warned of and not refused; they are found in
            `accepted_wrong_of` then, and nothing is remembered.
        served: whether a server runs the file; it may do so by another engine the next time, so
            that nothing is remembered.

    Raises:
        WrongAnswersError: its answers are wrong; it is closed then.
        FoldcamError: it failed; it is closed then.
    """
    if backend.contract.canary is None:
        return backend
    try:
        place = None if served else passed_path(sha256 or hash_of(path), backend)
        if place is not None and has_passed(place):
            return backend
        verdict = probe(backend)
        assert verdict is not None
        if verdict.right:
            if place is not None:
                remember(place, backend, verdict)
            return backend
        sentence = wrong_sentence(backend, path, verdict, served=served)
        if not accept_wrong:
            raise WrongAnswersError(
                f"{sentence} (`runtime run`, build, bench and gate use it all the same with "
                "--accept-wrong)."
            )
    except BaseException:
        backend.close()
        raise
    print(f"WARNING: {printable(sentence)}; accepted by --accept-wrong.", file=sys.stderr)
    backend.accepted_wrong = sentence
    return backend


def probe(backend: Runs) -> ProbeVerdict | None:
    """What the backend answers, by one picture a pass; None where the model has no pictures.

    A model whose bank is an input is left with a bank of `ask`'s own.
    """
    contract = backend.contract
    if contract.canary is None:
        return None
    found = ask(backend, [answer.seed for answer in contract.canary.answers])
    scores = contract.scores is not None
    return judge(contract.canary, found, scores=scores)


def accepted_wrong_of(backend: object) -> str | None:
    """What of a backend's answers is wrong and was accepted; None where nothing is known to be."""
    # A backend of the user's own is not asked, and has no such attribute.
    found: str | None = getattr(backend, "accepted_wrong", None)
    return found


def wrong_sentence(
    backend: Runs, path: Path, verdict: ProbeVerdict, *, served: bool = False
) -> str:
    """What is wrong and what helps, without a full stop."""
    return (
        f"{path} answers wrongly in {backend.name} on {backend.device} "
        f"({verdict.pictures} probe pictures in {verdict.precision}): "
        f"{'; '.join(verdict.failures)}: {_remedy(backend, path, verdict, served)}"
    )


def _remedy(backend: Runs, path: Path, verdict: ProbeVerdict, served: bool) -> str:
    precise = {
        "fp32": "",
        "fp16": "export the model with --precision fp32, ",
        "int8": "calibrate the model with more layers in --keep-float, ",
    }[verdict.precision]
    if served:
        remedy = "serve the .onnx itself (runtime deploy --platform onnx), or leave out --server"
        return f"{precise}{remedy}"
    if not backend.name.startswith("onnxruntime"):
        return f"{precise}use another TensorRT, or run the .onnx with --backend onnxruntime"
    if backend.device != "cpu":
        return f"{precise}use another ONNX Runtime, or run {path} with --provider cpu"
    return f"{precise}use another ONNX Runtime, or export the model again"


def passed_path(sha256: str, backend: Runs) -> Path:
    """Where it is remembered."""
    canary = backend.contract.canary
    about = {
        "file": sha256,
        "probes": None if canary is None else [PROBES_VERSION, asdict(canary)],
        "limits": None if canary is None else vars(LIMITS[canary.precision]),
        "library": backend.name,
        "device": backend.device,
        "machine": _machine(backend.device),
    }
    return _folder() / f"{digest_of(about)}.json"


def has_passed(path: Path) -> bool:
    """Whether a file answered rightly before."""
    try:
        return path.is_file()
    except OSError:
        return False


def remember(path: Path, backend: Runs, verdict: ProbeVerdict) -> None:
    """Remember that a file answered rightly, if that can be written."""
    text = json.dumps({"library": backend.name, "device": backend.device, **vars(verdict)})
    with suppress(FoldcamError, OSError), atomic_path(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def hash_of(path: Path) -> str:
    """Of a model's file and of those that its weights are in; read again where one has changed.

    Reading 100 MB takes a tenth of a second or more, at every start: that of large files is kept.
    """
    parts = [path, *(path.parent / each.location for each in read_header(path).external)]
    states = [(str(part.resolve()), part.stat()) for part in parts]
    if sum(at.st_size for _, at in states) < KEPT_FROM:
        return _hash_of(parts)
    key = [[name, at.st_ino, at.st_size, at.st_mtime_ns] for name, at in states]
    known = _folder() / "hashes" / digest_of(key)
    with suppress(OSError, ValueError):
        found = known.read_text("ascii").strip()
        if len(found) == _HASH_LENGTH:
            return found
    found = _hash_of(parts)
    with suppress(FoldcamError, OSError), atomic_path(known) as temporary:
        temporary.write_text(found, encoding="ascii")
    return found


def _hash_of(parts: Sequence[Path]) -> str:
    hashes = [sha256_of_file(part) for part in parts]
    return hashes[0] if len(hashes) == 1 else digest_of(hashes)


def _folder() -> Path:
    return cache_root() / "probes"


def _machine(device: str) -> str:
    """The processor or GPU: a home folder may be that of several machines."""
    if device != "cpu":
        gpu = find_gpu()
        return "" if gpu is None else f"{gpu.name} {gpu.compute_capability}"
    try:
        text = _PROCESSORS.read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{platform.machine()} {found.group(1) if found else ''}"
