"""Memory of one peer in a process of its own.

    python -m foldcam.benchmarks.studies.peers.memory FOLDER MODEL WEIGHTS NAME

prints `{"loaded": ..., "peak": ...}` in bytes: resident once the peer is built, and at the peak
of its runs. The peak before the runs is forgotten (`/proc/self/clear_refs`), because exporting
a network in torch takes more than running it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from foldcam.benchmarks.studies.peers.openvino_worker import memory
from foldcam.benchmarks.studies.peers.peer import Setting

_RUNS = 3


def measured(setting: Setting, name: str) -> dict[str, int] | None:
    """Bytes of one peer; None where its process failed.

    Args:
        name: of `benchmarks.studies.peers.peer.builders`.
    """
    command = [sys.executable, "-m", "foldcam.benchmarks.studies.peers.memory"]
    command += [str(setting.folder), setting.model, str(setting.weights or ""), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measured_openvino(python: Path, setting: Setting, name: str) -> dict[str, int]:
    """The same for one of openvino_xai's graphs."""
    # Not above: it loads torch, which the folded graph is measured without.
    from foldcam.benchmarks.studies.peers.openvino import METHODS, Worker

    method = METHODS[name][0]
    images, asked = setting.sample()
    worker = Worker(python, setting.plain, [method])
    try:
        answers = [worker.run(method, images[0], asked.all_triplets) for _ in range(_RUNS)]
    finally:
        worker.close()
    return {"loaded": worker.resident, "peak": answers[-1].peak}


def _measure(setting: Setting, name: str) -> dict[str, Any]:
    from foldcam.benchmarks.studies.peers.peer import builders

    images, asked = setting.sample()
    peer = builders()[name](setting)
    gc.collect()
    with suppress(OSError, AttributeError):
        # What the allocator only keeps for later is not what the peer needs.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    loaded = memory()[0]
    for _ in range(_RUNS):
        peer.run(images[0], asked)
    return {"loaded": loaded, "peak": max(memory())}


if __name__ == "__main__":
    folder, model, weights, wanted = sys.argv[1:5]
    here = Setting(Path(folder), model, Path(weights) if weights else None)
    print(json.dumps(_measure(here, wanted)))
