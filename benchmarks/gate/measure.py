"""The gate's timing, in a process of its own that holds nothing but the graphs.

    python -m foldcam.benchmarks.gate.measure REPEATS ROUNDS DEVICE SEED NAME=FILE ...

prints one JSON document: for each repeat the median ratios, and what the machine was.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.interleaved import Run, Timed, interleaved_runs
from foldcam.runtime.bench.facts import machine_facts
from foldcam.runtime.errors import FoldcamError

PLAIN, FOLDED, INT8, FP16 = "plain", "folded", "int8", "fp16"
_WARM_UP = 5
_PROBE_RUNS = 15


def measured(
    files: Mapping[str, Path], repeats: int, rounds: int, device: str, seed: int = 0
) -> dict[str, Any]:
    """Time graphs against each other in a fresh process.

    Args:
        files: `plain` and `folded`, and `int8` and `fp16` where both are there.
        repeats: times that everything is opened again.
        rounds: paired runs in each repeat.
        device: `cpu` (one thread, on one processor) or `cuda`.
        seed: of images and orders.

    Returns:
        `figures` (name -> one number per repeat) and `machine`.

    Raises:
        FoldcamError: a graph cannot be run, with the reason.
    """
    command = [sys.executable, "-m", "foldcam.benchmarks.gate.measure"]
    command += [str(repeats), str(rounds), device, str(seed)]
    command += [f"{name}={path}" for name, path in files.items()]
    # NumPy's library reads it when it is loaded; the probes are to run on one thread, too.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise FoldcamError(f"The gate's measurement ended; the last that it said: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(
    files: Mapping[str, Path], repeats: int, rounds: int, device: str, seed: int
) -> dict[str, Any]:
    """As `measured`, in this process, which is bound to one processor for it."""
    facts = machine_facts()
    if device == "cpu":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures: dict[str, list[float]] = {}
    gc.disable()
    for repeat in range(repeats):
        runs = opened(files, device, seed)
        seconds = interleaved_runs(runs, rounds, seed + repeat, _WARM_UP)
        for name, value in {**_figures(seconds, device), **_speed()}.items():
            figures.setdefault(name, []).append(round(value, 6))
        del runs
        gc.collect()
    return {"figures": figures, "machine": facts, "repeats": repeats, "rounds": rounds}


def _figures(seconds: Mapping[str, Timed], device: str) -> dict[str, float]:
    """The figures of one repeat; less is better in all of them."""
    plain, folded = seconds[PLAIN], seconds[FOLDED]
    found = {"folded_over_plain_wall": float(np.median(folded.wall / plain.wall))}
    if device == "cpu":
        # The one thread does all the work, and other programs do not count there.
        found["folded_over_plain"] = float(np.median(folded.processor / plain.processor))
    tails = {name: _tail(seconds[name]) for name in (PLAIN, FOLDED)}
    found["p99_over_p50"] = tails[FOLDED]
    # What disturbs the machine lengthens both tails; what folding does, only its own.
    found["tail_over_plain_tail"] = tails[FOLDED] / tails[PLAIN]
    if INT8 in seconds and FP16 in seconds:
        found["int8_over_fp16"] = float(np.median(seconds[INT8].wall / seconds[FP16].wall))
    for name, times in seconds.items():
        # A program that shares the processor doubles the wall time, and the processor's not.
        by_clock = times.processor if device == "cpu" and name in (PLAIN, FOLDED) else times.wall
        found[f"{name}_milliseconds"] = 1e3 * float(np.median(by_clock))
    return found


def _tail(times: Timed) -> float:
    return float(np.percentile(times.wall, 99) / np.median(times.wall))


def _speed() -> dict[str, float]:
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


def opened(files: Mapping[str, Path], device: str, seed: int) -> dict[str, Run]:
    """Each graph, opened now, as something to time.

    INT8 and FP16 are folded models or engines, which `runtime` opens; the plain graph is none.
    """
    generator = np.random.default_rng(seed)
    runs: dict[str, Run] = {}
    for name, path in files.items():
        if name in (INT8, FP16):
            runs[name] = _opened_model(path, device, generator)
        elif device == "cuda":
            runs[name] = _opened_on_gpu(path, generator)
        else:
            runs[name] = opened_on_processor(path, generator)
    return runs


def _opened_model(path: Path, device: str, generator: np.random.Generator) -> Run:
    from foldcam.runtime.backends import open_backend
    from foldcam.runtime.backends.choice import is_engine
    from foldcam.runtime.contract.tensors import expected_tensors

    backend = open_backend(path, "auto" if is_engine(path) or device != "cpu" else "cpu", 1)
    tensor = expected_tensors(backend.contract)[0]
    image = _image([int(size) for size in tensor.shape[1:]], tensor.dtype, generator)
    return lambda _: (backend.run(image), None)[1]


def _opened_on_gpu(path: Path, generator: np.random.Generator) -> Run:
    from foldcam.benchmarks.gpu.sessions import BoundSession
    from foldcam.runtime.contract.onnx_file import read_header

    given = read_header(path).inputs[0]
    image = _image([int(size) for size in given.shape[1:]], given.dtype, generator)
    session = BoundSession(path, "cuda", image, False)
    return lambda _: session.run()


def opened_on_processor(path: Path, generator: np.random.Generator) -> Run:
    """A graph in ONNX Runtime on one thread, with a random image of its own dtype."""
    from foldcam.benchmarks.overhead.timing import open_session

    session = open_session(path)
    (given,) = session.get_inputs()
    image = _image(given.shape[1:], given.type[len("tensor(") : -1], generator)
    return lambda _: (session.run(None, {given.name: image}), None)[1]


def _image(sizes: list[int], dtype: str, generator: np.random.Generator) -> npt.NDArray[Any]:
    shape = (1, *sizes)
    if dtype == "uint8":
        return generator.integers(0, 256, shape).astype(np.uint8)
    return generator.normal(size=shape).astype(np.float32)


if __name__ == "__main__":
    number, in_each, kind, start = sys.argv[1:5]
    graphs = dict(word.split("=", 1) for word in sys.argv[5:])
    named = {name: Path(path) for name, path in graphs.items()}
    print(json.dumps(measure(named, int(number), int(in_each), kind, int(start))))
