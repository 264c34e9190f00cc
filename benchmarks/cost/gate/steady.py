"""Whether the machine is steady enough for timings to mean something, and as fast as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.interleaved import Run
from foldcam.runtime.measurement.bench.clocks import Clocks, clock_problem, read_clocks
from foldcam.runtime.system.errors import FoldcamError

_PROBE_RUNS = 15


def clocks_now(device: str, run: Run | None = None) -> Clocks:
    """The clocks while the graph runs; of a processor only what throttles it: it is probed."""
    if device == "cpu" or run is None:
        return replace(read_clocks(run=lambda _: ""), mhz=None, target_mhz=None)
    found: list[Clocks] = []
    reader = threading.Thread(target=lambda: found.append(read_clocks()))
    reader.start()
    while reader.is_alive():
        run(0)
    return found[0] if found else Clocks()


def check_clocks(
    clocks: Sequence[Clocks], wanted: float | None, facts: Mapping[str, Any], repeat: str
) -> None:
    """Refuse to measure on.

    Args:
        clocks: one entry per repeat so far.
        wanted: megahertz that the GPU was locked at; None where that is not known.
        facts: of the machine.
        repeat: which one it was, for the message.

    Raises:
        FoldcamError: what is wrong with the clocks, and what sets them on this machine.
    """
    problem = clock_problem(clocks, wanted)
    if not problem:
        return
    if facts.get("l4t"):
        lock = "sudo jetson_clocks"
    else:
        usual = max((each.mhz for each in clocks if each.mhz is not None), default=0.0)
        mhz = f"{wanted or usual:.0f}"
        lock = f"sudo nvidia-smi --lock-gpu-clocks={mhz}, and give --clock {mhz}"
    raise FoldcamError(
        f"These times are no measurement: {problem} (repeat {repeat}). Let the device "
        f"cool and lock its clocks ({lock}), or measure all the same with --clock any."
    )


def speed() -> dict[str, float]:
    """Milliseconds of a product and of a copy: whether the machine is as fast as it was."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(256, 256)).astype(np.float32)
    block = np.zeros(4 << 20, np.float32)
    other = np.empty_like(block)

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(_PROBE_RUNS):
            start = time.thread_time()
            run()
            times.append(time.thread_time() - start)
        return 1e3 * float(np.median(times))

    return {
        "probe_product_milliseconds": best(lambda: np.matmul(matrix, matrix)),
        "probe_copy_milliseconds": best(lambda: np.copyto(other, block)),
    }
