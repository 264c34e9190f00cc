"""Time of folded graphs against the plain one, in turn within one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from foldcam.benchmarks.evaluation.interleaved import Timed, interleaved_runs
from foldcam.runtime.contract.schema import IMAGE


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
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timed]:
    """Seconds of each session; all see the same image in a round."""

    def run(session: onnxruntime.InferenceSession, number: int) -> None:
        session.run(None, {IMAGE: images[number % len(images)]})

    runs = {name: partial(run, session) for name, session in sessions.items()}
    return interleaved_runs(runs, rounds, seed, on_progress=on_progress)
