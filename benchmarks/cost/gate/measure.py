"""The gate's timing, in a process of its own that holds nothing but the graphs.

    python -m foldcam.benchmarks.cost.gate.measure PLAN

where PLAN is a JSON document (what `measured` is given), prints one JSON document: for each
repeat the median ratios, what the machine was, and its clocks; or the `problem` that ended it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.cost.gate.machine import FLAVOURS, Device, machine_now
from foldcam.benchmarks.cost.gate.subject import (
    BASE,
    BASE_FOLDED,
    BASE_PLAIN,
    FOLDED,
    FP16,
    INT8,
    PLAIN,
    Subject,
)
from foldcam.benchmarks.evaluation.interleaved import Run, Timed, interleaved_runs
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
        wanted: megahertz that the GPU was locked at; None where that is not known.
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


OVER_BASE = "folded_over_base"
_WARM_UP = 5


@dataclass(frozen=True)
class Timing:
    """How graphs are timed against each other."""

    device: Device = "cpu"  # `cpu` (one thread, on one processor), `cuda`, `tensorrt` or `rtx`
    repeats: int = 10  # times that everything is opened again
    rounds: int = 60  # paired runs in each
    seed: int = 0  # of images and orders
    # megahertz that the GPU is locked at; None takes the target that it says itself
    clock: float | None = None
    any_clock: bool = False  # whether to measure whatever the clocks are


def measured(subject: Subject, timing: Timing) -> dict[str, Any]:
    """Time graphs against each other in a fresh process.

    Returns:
        `figures` (name -> one number per repeat), `base_figures` where a base is measured along,
        `machine`, and `clocks`, one entry before and one after each repeat.
    """
    plan = {
        "files": {name: str(path) for name, path in subject.files.items()},
        "graphs": {name: str(path) for name, path in subject.graphs.items()},
        "timing": {each.name: getattr(timing, each.name) for each in fields(Timing)},
    }
    command = [sys.executable, "-m", "foldcam.benchmarks.cost.gate.measure", json.dumps(plan)]
    # NumPy's library reads it when it is loaded; the probes are to run on one thread, too.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise FoldcamError(f"The gate's measurement ended; the last that it said: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "problem" in found:
        raise FoldcamError(found["problem"])
    return found


def measure(subject: Subject, timing: Timing) -> dict[str, Any]:
    """As `measured`, in this process, which is bound to one processor for it on a CPU."""
    device = timing.device
    facts = machine_now(device)
    if device == "cpu":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if device not in FLAVOURS:
        _check_answers(subject.files[FOLDED], device)
    figures: dict[str, list[float]] = {}
    base: dict[str, list[float]] = {}
    # Counters of events are compared with what they were before.
    clocks = [clocks_now(device)]
    gc.disable()
    for repeat in range(timing.repeats):
        with ExitStack() as stack:
            runs = opened(subject, device, timing.seed, stack)
            seconds = interleaved_runs(runs, timing.rounds, timing.seed + repeat, _WARM_UP)
            clocks.append(clocks_now(device, runs[FOLDED]))
            del runs
        gc.collect()
        if not timing.any_clock:
            check_clocks(clocks, timing.clock, facts, f"{repeat + 1} of {timing.repeats}")
        probes = speed()
        own = {name: each for name, each in seconds.items() if not name.startswith(BASE)}
        _keep(figures, {**_figures(own, device), **probes})
        if BASE_FOLDED in seconds:
            # Paired within a round, which two medians of milliseconds are not.
            _keep(figures, {OVER_BASE: _over_base(seconds, device)})
            pair = {PLAIN: seconds[BASE_PLAIN], FOLDED: seconds[BASE_FOLDED]}
            ratios = {
                name: value
                for name, value in _figures(pair, device).items()
                if not name.endswith("_milliseconds")
            }
            _keep(base, {**ratios, OVER_BASE: 1.0})
    return {
        "figures": figures,
        **({"base_figures": base} if base else {}),
        "machine": facts,
        "clocks": [each.document() for each in clocks],
        "repeats": timing.repeats,
        "rounds": timing.rounds,
    }


def _keep(figures: dict[str, list[float]], found: Mapping[str, float]) -> None:
    for name, value in found.items():
        figures.setdefault(name, []).append(round(value, 6))


def _check_answers(folded: Path, device: str) -> None:
    """Open the folded graph as `runtime` does, which refuses one that answers wrongly here."""
    from foldcam.runtime.backends import open_backend

    with closing(open_backend(folded, "cuda" if device == "cuda" else "cpu", 1)):
        pass


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


def _over_base(seconds: Mapping[str, Timed], device: str) -> float:
    now, then = seconds[FOLDED], seconds[BASE_FOLDED]
    ratios = now.processor / then.processor if device == "cpu" else now.wall / then.wall
    return float(np.median(ratios))


def _tail(times: Timed) -> float:
    return float(np.percentile(times.wall, 99) / np.median(times.wall))


def opened(
    subject: Subject, device: str, seed: int, stack: ExitStack, only: str | None = None
) -> dict[str, Run]:
    """Each graph, opened now, as something to time.

    Args:
        only: name of the one to open; None opens all.
    """
    generator = np.random.default_rng(seed)
    runs: dict[str, Run] = {}
    for name, path in subject.files.items():
        if only not in (None, name):
            continue
        if name in (INT8, FP16):
            runs[name] = _opened_model(path, device, generator, stack)
        elif device in FLAVOURS:
            runs[name] = _opened_engine(subject, name, device, generator, stack)
        elif device == "cuda":
            runs[name] = _opened_on_gpu(path, generator)
        else:
            runs[name] = opened_on_processor(path, generator)
    return runs


def _opened_engine(
    subject: Subject, name: str, device: str, generator: np.random.Generator, stack: ExitStack
) -> Run:
    path = subject.files[name]
    if not name.endswith(PLAIN):
        return _opened_model(path, device, generator, stack)
    from foldcam.benchmarks.cost.gate.engines import open_plain

    folded = subject.files[name.replace(PLAIN, FOLDED)]
    backend = stack.enter_context(closing(open_plain(path, subject.graphs[name], folded, device)))
    return _passes(backend, generator)


def _opened_model(path: Path, device: str, generator: np.random.Generator, stack: ExitStack) -> Run:
    from foldcam.runtime.backends import open_backend
    from foldcam.runtime.backends.choice import is_engine

    backend = open_backend(path, "auto" if is_engine(path) or device != "cpu" else "cpu", 1)
    return _passes(stack.enter_context(closing(backend)), generator)


def _passes(backend: Any, generator: np.random.Generator) -> Run:
    from foldcam.runtime.contract.tensors import expected_tensors

    tensor = expected_tensors(backend.contract)[0]
    image = _image([int(size) for size in tensor.shape[1:]], tensor.dtype, generator)
    return lambda _: (backend.run(image), None)[1]


def _opened_on_gpu(path: Path, generator: np.random.Generator) -> Run:
    from foldcam.benchmarks.cost.gpu.sessions import BoundSession
    from foldcam.runtime.contract.onnx_file import read_header

    given = read_header(path).inputs[0]
    image = _image([int(size) for size in given.shape[1:]], given.dtype, generator)
    session = BoundSession(path, "cuda", image, False)
    return lambda _: session.run()


def opened_on_processor(path: Path, generator: np.random.Generator) -> Run:
    """A graph in ONNX Runtime on one thread, with a random image of its own dtype."""
    from foldcam.benchmarks.evaluation.interleaved import open_session

    session = open_session(path)
    (given,) = session.get_inputs()
    image = _image(given.shape[1:], given.type[len("tensor(") : -1], generator)
    return lambda _: (session.run(None, {given.name: image}), None)[1]


def _image(sizes: list[int], dtype: str, generator: np.random.Generator) -> npt.NDArray[Any]:
    shape = (1, *sizes)
    if dtype == "uint8":
        return generator.integers(0, 256, shape).astype(np.uint8)
    return generator.normal(size=shape).astype(np.float32)


def _main(text: str) -> dict[str, Any]:
    plan = json.loads(text)
    files, graphs = (
        {name: Path(path) for name, path in plan[key].items()} for key in ("files", "graphs")
    )
    try:
        return measure(Subject("", files, graphs), Timing(**plan["timing"]))
    except FoldcamError as error:
        return {"problem": str(error)}


if __name__ == "__main__":
    print(json.dumps(_main(sys.argv[1])))
