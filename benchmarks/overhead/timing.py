"""Time of folded graphs against the plain one, in turn within one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.bootstrap import Interval, bootstrap_of
from runtime.contract import IMAGE

Times = npt.NDArray[np.float64]

_WARM_UP = 10


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
) -> dict[str, Times]:
    """Seconds of each session, `float64 [rounds]`; all see the same image in a round.

    The order within a round is drawn anew, so that none always follows the one that
    emptied the caches.
    """
    generator = np.random.default_rng(seed)
    names = list(sessions)
    seconds = {name: np.empty(rounds) for name in names}
    for number in range(-_WARM_UP, rounds):
        given = {IMAGE: images[number % len(images)]}
        for position in generator.permutation(len(names)):
            name = names[int(position)]
            start = time.perf_counter()
            sessions[name].run(None, given)
            spent = time.perf_counter() - start
            if number >= 0:
                seconds[name][number] = spent
        if tell and number >= 0:
            tell(number + 1, rounds)
    return seconds


def ratio_of_medians(times: Times, plain: Times, draws: int, seed: int = 0) -> Interval:
    """Median over median, with a bootstrap interval over rounds.

    Args:
        times: `float64 [rounds]`.
        plain: `float64 [rounds]`, measured in the same rounds.
        draws: of the bootstrap.
        seed: of the draws.
    """
    return bootstrap_of(
        lambda rounds: float(np.median(times[rounds]) / np.median(plain[rounds])),
        len(times),
        draws,
        seed,
    )
