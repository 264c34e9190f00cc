"""The float and the quantized model timed in turn, one thread, one process."""

from __future__ import annotations

import time
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
    candidate: onnx.ModelProto,
    contract: Contract,
    images: Images,
    rounds: int = 30,
) -> Speed:
    """Time both models in turn on single images with ONNX Runtime's kernels."""
    runners = [Runner(model, contract, kernels=True, batch=1) for model in (reference, candidate)]
    ratios = []
    # The first rounds warm up caches and clocks.
    for turn in range(-3, rounds):
        image = images[turn % len(images)][None]
        spent = []
        for runner in runners:
            start = time.perf_counter()
            list(runner.batches(image))
            spent.append(time.perf_counter() - start)
        if turn >= 0:
            ratios.append(spent[0] / spent[1])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return Speed(float(middle), float(low), float(high), rounds)
