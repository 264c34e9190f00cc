"""Several cameras, one model: frames a second, and how long each waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.interleaved import open_session
from foldcam.runtime.contract.schema import IMAGE


def cameras(
    model: Path,
    images: Sequence[Any],
    numbers: Sequence[int],
    frames: int,
    progress: Progress,
) -> dict[str, Any]:
    """Each camera asks one model for its next frame as soon as it has the answer to the last.

    Args:
        images: `float32 [1, 3, H, W]` each.
        progress: called with `(stage, done, total)`.

    Returns:
        Number of cameras -> `frames_per_second` of all of them, `p50` and `p99` of one
        frame in milliseconds, each camera in a thread of its own; and `batched_*`, where the
        frames of all of them go through in one pass.
    """
    session = open_session(model)
    found: dict[str, Any] = {}
    for done, number in enumerate(numbers):
        progress("cameras", done, len(numbers))
        spent: list[list[float]] = [[] for _ in range(number)]

        def camera(own: list[float]) -> None:
            for n in range(frames):
                start = time.perf_counter()
                session.run(None, {IMAGE: images[n % len(images)]})
                own.append(1e3 * (time.perf_counter() - start))

        threads = [threading.Thread(target=camera, args=(own,)) for own in spent]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begin
        everything = np.concatenate(spent)
        batch = np.concatenate([images[n % len(images)] for n in range(number)])
        passes = []
        for _ in range(max(5, frames // number)):
            start = time.perf_counter()
            session.run(None, {IMAGE: batch})
            passes.append(1e3 * (time.perf_counter() - start))
        found[str(number)] = {
            "frames_per_second": round(number * frames / seconds, 2),
            "p50": round(float(np.percentile(everything, 50)), 3),
            "p99": round(float(np.percentile(everything, 99)), 3),
            "batched_frames_per_second": round(1e3 * number / float(np.median(passes)), 2),
            "batched_p50": round(float(np.median(passes)), 3),
        }
    progress("cameras", len(numbers), len(numbers))
    return found
