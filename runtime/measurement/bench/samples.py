"""What a series of timings says: percentiles, spread, drift, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LARGEST_SPREAD = 0.10
"""Distance of the quartiles over the median, above which a run is called unstable."""
LARGEST_DRIFT = 0.03
"""Change of the median from the first to the last quarter, likewise."""
_LEAST_FOR_DRIFT = 40


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
