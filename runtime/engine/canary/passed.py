"""That a file answered rightly here is remembered, so that the next start need not ask again.

One small file per model or engine, library, version and device, in the user's cache. It decides
nothing but whether the probe pictures are shown again; one that cannot be written costs time.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from foldcam.runtime.contract.canary import PROBES_VERSION
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.engine.canary.asking import Runs
from foldcam.runtime.engine.canary.verdict import LIMITS, ProbeVerdict
from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.system.digest import digest_of
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, sha256_of_file
from foldcam.runtime.system.user_cache import cache_root

KEPT_FROM = 16 << 20
"""Bytes of a model from which on its hash is kept."""
_HASH_LENGTH = 64
_PROCESSORS = Path("/proc/cpuinfo")


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
