"""The float and the quantized models timed in turn, one thread, one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from calibrate.session import Images, Runner
from runtime.contract import Contract


@dataclass(frozen=True)
class Speed:
    """Time of the float model over the quantized one's.

    Attributes:
        ratio: median over the rounds.
        low, high: its quartiles.
        rounds: timed pairs.
    """

    ratio: float
    low: float
    high: float
    rounds: int

    def document(self) -> dict[str, Any]:
        """For the report."""
        return dict(vars(self))


def compare_speed(
    reference: onnx.ModelProto,
    candidates: Sequence[onnx.ModelProto],
    contract: Contract,
    images: Images,
    rounds: int = 30,
) -> list[Speed]:
    """Time all models in turn on single images with ONNX Runtime's kernels.

    Returns:
        One for each candidate, in their order.
    """
    models = (reference, *candidates)
    runners = [Runner(model, contract, kernels=True, batch=1) for model in models]
    ratios = np.empty((rounds, len(candidates)))
    # The first rounds warm up caches and clocks.
    for turn in range(-3, rounds):
        image = images[turn % len(images)][None]
        spent = []
        for runner in runners:
            start = time.perf_counter()
            list(runner.batches(image))
            spent.append(time.perf_counter() - start)
        if turn >= 0:
            ratios[turn] = spent[0] / np.array(spent[1:])
    low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
    return [
        Speed(float(m), float(lo), float(hi), rounds)
        for lo, m, hi in zip(low, middle, high, strict=True)
    ]
