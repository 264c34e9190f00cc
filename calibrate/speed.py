"""The float and the quantized models timed alternately, in one thread of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import onnx

from foldcam.calibrate.session import Images, Runner
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.measurement.comparison.interleaved import Ratio, ratio_of, seconds_interleaved


def compare_speed(
    reference: onnx.ModelProto,
    candidates: Sequence[onnx.ModelProto],
    contract: Contract,
    images: Images,
    rounds: int = 30,
) -> list[Ratio]:
    """Time all models alternately on single images with ONNX Runtime's kernels.

    The clock is the thread's own: it does all the work, and the machine may be busy.

    Returns:
        Time of the float model over that of each candidate, in their order.
    """
    runs = [_run(model, contract, images) for model in (reference, *candidates)]
    seconds = seconds_interleaved(runs, rounds, clock=time.thread_time)
    return [ratio_of(seconds[:, 0], seconds[:, place]) for place in range(1, len(runs))]


def _run(model: onnx.ModelProto, contract: Contract, images: Images) -> Callable[[int], object]:
    runner = Runner(model, contract, kernels=True, batch=1)
    return lambda turn: list(runner.batches(images[turn % len(images)][None]))
