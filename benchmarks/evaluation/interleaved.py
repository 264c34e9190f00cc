"""Timing in turn within one process: what is compared meets the same load."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap
from foldcam.runtime.contract.schema import IMAGE

if TYPE_CHECKING:
    import onnxruntime

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """Seconds of one run by two clocks, `float64 [rounds]` each."""

    wall: Times  # what a user waits
    # of the calling thread alone, which does all the work: other programs on the machine disturb
    # it less
    processor: Times


Run = Callable[[int], "tuple[float, float] | None"]
"""Round number -> its own seconds `(wall, processor)` where another process measured them."""


def interleaved_runs(
    runs: Mapping[str, Run],
    rounds: int,
    seed: int = 0,
    warm_up: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Seconds of each run, all of them once in every round.

    The order within a round is drawn again each time, so that none always follows the one that
    emptied the caches.

    Args:
        runs: name -> what is timed, called with the number of the round.
    """
    generator = np.random.default_rng(seed)
    names = list(runs)
    seconds = {name: Timed(np.empty(rounds), np.empty(rounds)) for name in names}
    for number in range(-warm_up, rounds):
        for position in generator.permutation(len(names)):
            name = names[int(position)]
            wall, processor = time.perf_counter(), time.thread_time()
            own = runs[name](number)
            processor, wall = time.thread_time() - processor, time.perf_counter() - wall
            if number >= 0:
                seconds[name].wall[number], seconds[name].processor[number] = own or (
                    wall,
                    processor,
                )
        if on_progress and number >= 0:
            on_progress(number + 1, rounds)
    return seconds


def median_ratio(times: Times, plain: Times, draws: int, seed: int = 0) -> Interval:
    """Median over rounds of one run's time over another's, with a bootstrap interval.

    Within a round both meet the same load, which a ratio of two medians would not know.

    Args:
        times: `float64 [rounds]`.
        plain: `float64 [rounds]`, measured in the same rounds.
    """
    return bootstrap(times / plain, lambda ratios: float(np.median(ratios)), draws, seed)


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with one thread, for figures that other machines can repeat."""
    import onnxruntime  # what is timed on a device with TensorRT alone needs none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def interleaved(
    sessions: Mapping[str, onnxruntime.InferenceSession],
    images: Sequence[npt.NDArray[np.float32]],
    rounds: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Seconds of each session; all see the same image in a round."""

    def run(session: onnxruntime.InferenceSession, number: int) -> None:
        session.run(None, {IMAGE: images[number % len(images)]})

    runs = {name: partial(run, session) for name, session in sessions.items()}
    return interleaved_runs(runs, rounds, seed, on_progress=on_progress)
