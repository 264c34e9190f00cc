"""The two ways of asking: one image after the other, and at a camera's pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foldcam.runtime.backends import Array, Backend, Resident
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel

PassProgress = Callable[[int, int], None]
LARGEST_SPREAD = 0.10
"""Distance of the quartiles over the median, above which a run is called unstable."""
LARGEST_DRIFT = 0.03
"""Change of the median from the first to the last quarter, likewise."""
_LEAST_FOR_DRIFT = 40


@dataclass
class Timings:
    """Milliseconds of each pass over a batch, in the order of time.

    Attributes:
        host: from frames in the host's memory to results in the host's memory: resize,
            normalise, run, labels.
        inference: of it the run alone, with the copies to and from a GPU.
        device: the run alone without copies; empty where there is no GPU.
        response: at a pace, from when the frame was due to its result: what waits counts.
        late: at a pace, passes that began after the next frame was due.
    """

    host: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    response: list[float] = field(default_factory=list)
    late: int = 0


class Loop:
    """A folded model and the frames that it is given.

    Args:
        frames: as a camera gives them; each pass takes the next `batch` of them in turn.
    """

    def __init__(self, backend: Backend, frames: Sequence[Image], batch: int) -> None:
        self._backend = backend
        self._model = FoldedModel(backend)
        self._frames = frames
        self._batch = batch
        self._resident: Resident | None = None
        # A plugin of ONNX Runtime keeps its memory to itself, so that nothing can stay there.
        if not backend.device.startswith(("cpu", "rtx")) and isinstance(backend, Resident):
            self._resident = backend

    def back_to_back(
        self, passes: int, warm_up: int, progress: PassProgress | None = None
    ) -> Timings:
        """As fast as it goes."""
        timings = Timings()
        for number in range(-warm_up, passes):
            self._pass(number, timings if number >= 0 else Timings())
            if progress and number >= 0:
                progress(number + 1, passes)
        return timings

    def paced(
        self, passes: int, warm_up: int, rate: float, progress: PassProgress | None = None
    ) -> Timings:
        """One pass each `1 / rate` seconds, as a camera would bring them.

        Between the passes the processor rests and its clock may fall, as it will in the field.

        Args:
            warm_up: passes before, at the same pace.
        """
        timings = Timings()
        start = time.perf_counter()
        for number in range(-warm_up, passes):
            due = start + (number + warm_up) / rate
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            late = -wait > 1 / rate
            kept = timings if number >= 0 else Timings()
            self._pass(number, kept, device=False)
            kept.response.append(1e3 * (time.perf_counter() - due))
            kept.late += late
            if progress and number >= 0:
                progress(number + 1, passes)
        return timings

    def _pass(self, number: int, timings: Timings, device: bool = True) -> None:
        first = number * self._batch
        frames = [self._frames[(first + n) % len(self._frames)] for n in range(self._batch)]
        start = time.perf_counter()
        results = self._model.run_batch(frames)
        timings.host.append(1e3 * (time.perf_counter() - start))
        timings.inference.append(results[0].timings.inference_ms * self._batch)
        if device and self._resident is not None:
            start = time.perf_counter()
            self._resident.run_resident(self._batch)
            timings.device.append(1e3 * (time.perf_counter() - start))


def synthetic_frames(width: int, height: int, count: int = 8) -> list[Array]:
    """Frames `uint8 [height, width, 3]` of seeded noise: no step's time depends on the pixels."""
    import numpy as np

    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def summary(milliseconds: Sequence[float]) -> dict[str, Any]:
    """Figures of one series in the order of time; nothing is clipped or left out.

    Returns:
        `count`, `p50`, `p90`, `p99`, `max`, `mean`, `iqr` (distance of the quartiles), `drift`
        (last quarter's median over the first quarter's, less 1; None for a short series) and
        `samples`.
    """
    values = np.asarray(milliseconds, np.float64)
    low, middle, high = np.percentile(values, [25, 50, 75])
    found: dict[str, Any] = {
        "count": len(values),
        "p50": float(middle),
        "p90": float(np.percentile(values, 90)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "iqr": float(high - low),
        "drift": drift(values),
    }
    rounded = {key: None if value is None else round(value, 4) for key, value in found.items()}
    return {**rounded, "samples": [round(float(value), 4) for value in values]}


def drift(values: Sequence[float] | np.typing.NDArray[np.float64]) -> float | None:
    """Relative change of the median from the first to the last quarter; None of fewer than 40."""
    array = np.asarray(values, np.float64)
    if len(array) < _LEAST_FOR_DRIFT:
        return None
    quarter = len(array) // 4
    return float(np.median(array[-quarter:]) / np.median(array[:quarter]) - 1)


def instabilities(found: dict[str, Any], what: str) -> list[str]:
    """Why a series should not be trusted, one clause each; empty if it can be."""
    reasons = []
    spread = found["iqr"] / found["p50"] if found["p50"] > 0 else 0.0
    if spread > LARGEST_SPREAD:
        reasons.append(f"{what}: the quartiles lie {spread:.0%} of the median apart")
    if found["drift"] is not None and abs(found["drift"]) > LARGEST_DRIFT:
        reasons.append(f"{what}: the median moved by {found['drift']:+.1%} over the run")
    return reasons
