"""Time of folded graphs against the plain one, in turn within one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.bootstrap import Interval, bootstrap
from runtime.contract import IMAGE

Times = npt.NDArray[np.float64]

_WARM_UP = 10


@dataclass(frozen=True)
class Timed:
    """Seconds of one graph by two clocks, `float64 [rounds]` each.

    Attributes:
        wall: what a user waits.
        processor: of the calling thread alone, which does all the work: other programs on
            the machine disturb it less.
    """

    wall: Times
    processor: Times


def open_session(model: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU with one thread, for figures that other machines can repeat."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def interleaved(
    sessions: Mapping[str, onnxruntime.InferenceSession],
    images: Sequence[npt.NDArray[np.float32]],
    rounds: int,
    seed: int = 0,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Seconds of each session; all see the same image in a round.

    The order within a round is drawn anew, so that none always follows the one that
    emptied the caches.
    """
    generator = np.random.default_rng(seed)
    names = list(sessions)
    seconds = {name: Timed(np.empty(rounds), np.empty(rounds)) for name in names}
    for number in range(-_WARM_UP, rounds):
        given = {IMAGE: images[number % len(images)]}
        for position in generator.permutation(len(names)):
            name = names[int(position)]
            wall, processor = time.perf_counter(), time.thread_time()
            sessions[name].run(None, given)
            if number >= 0:
                seconds[name].processor[number] = time.thread_time() - processor
                seconds[name].wall[number] = time.perf_counter() - wall
        if tell and number >= 0:
            tell(number + 1, rounds)
    return seconds


def median_ratio(times: Times, plain: Times, draws: int, seed: int = 0) -> Interval:
    """Median over rounds of one graph's time over the plain one's, with a bootstrap interval.

    Within a round both meet the same load, which a ratio of two medians would not know.

    Args:
        times: `float64 [rounds]`.
        plain: `float64 [rounds]`, measured in the same rounds.
        draws: of the bootstrap.
        seed: of the draws.
    """
    return bootstrap(times / plain, lambda ratios: float(np.median(ratios)), draws, seed)
