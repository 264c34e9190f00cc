"""What was measured of the peers, as rows of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.bootstrap import Interval, paired_bootstrap_of
from foldcam.benchmarks.evaluation.interleaved import Timed, median_ratio
from foldcam.benchmarks.evaluation.localization.evaluate import Scores
from foldcam.benchmarks.studies.peers.peer import FOLDCAM, PLAIN, Peer


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, by the peers' names."""

    peers: Mapping[str, Peer]  # what was measured
    seconds: Mapping[str, Timed]  # of each
    scores: Mapping[str, Scores]  # of each whose maps are its own
    # of the others, whose maps they share, and the difference of both
    shared: Mapping[str, tuple[str, float]]
    memories: Mapping[str, Mapping[str, int]]  # bytes, `loaded` and at the `peak`
    draws: int  # of the bootstrap
    seed: int  # of the bootstrap


def method(name: str, found: Measured) -> dict[str, Any]:
    """One peer's time, memory and localization."""
    peers, seconds, scores = found.peers, found.seconds, found.scores
    shared, memories = found.shared, found.memories
    times = seconds[name]
    row: dict[str, Any] = {
        "title": peers[name].title,
        "library": peers[name].library,
        "milliseconds": round(1e3 * float(np.median(times.wall)), 3),
        "processor_milliseconds": round(1e3 * float(np.median(times.processor)), 3),
        "grid_pointing": None,
        "pixel_ap": None,
        "intervals": {},
        "samples_milliseconds": [round(1e3 * float(value), 3) for value in times.wall],
    }
    plain = seconds[PLAIN]
    if len(times.wall) == len(plain.wall):
        ratio = median_ratio(times.wall, plain.wall, found.draws, found.seed)
        row["intervals"]["ratio_to_plain"] = _interval(ratio)
        row["ratio_to_plain"] = row["intervals"]["ratio_to_plain"]["mean"]
    else:
        row["ratio_to_plain"] = round(float(np.median(times.wall) / np.median(plain.wall)), 3)
    like = shared[name][0] if name in shared else name
    if name in shared:
        row["same_maps_as"], row["largest_map_difference"] = like, shared[name][1]
    if like in scores:
        row["images"] = scores[like].count
        for metric, value in scores[like].intervals(found.draws).items():
            row["intervals"][metric] = _interval(value)
            row[metric] = row["intervals"][metric]["mean"]
    if name in memories:
        row["loaded_megabytes"] = round(memories[name]["loaded"] / 1e6, 1)
        row["peak_megabytes"] = round(memories[name]["peak"] / 1e6, 1)
    return row


def differences(found: Measured) -> dict[str, Any]:
    """foldcam minus each other on the same images, paired."""
    ours = found.scores[FOLDCAM]
    rows: dict[str, Any] = {}
    for name, other in found.scores.items():
        if name == FOLDCAM:
            continue
        rows[name] = {
            metric: _interval(
                paired_bootstrap_of(
                    ours.statistics[metric], statistic, other.count, found.draws, found.seed
                )
            )
            for metric, statistic in other.statistics.items()
        }
    return rows | {name: rows[like] for name, (like, _) in found.shared.items() if like in rows}


def speedups(found: Measured) -> dict[str, Any]:
    """How many times as fast the folded graph is as Grad-CAM in torch."""
    seconds = found.seconds
    medians = {name: float(np.median(times.wall)) for name, times in seconds.items()}
    rivals = {name: value for name, value in medians.items() if "gradcam" in name}
    if not rivals:
        return {}
    fastest = min(rivals, key=lambda name: rivals[name])
    ours = seconds[FOLDCAM].wall

    def speedup(name: str) -> dict[str, float]:
        return _interval(median_ratio(seconds[name].wall, ours, found.draws, found.seed))

    return {
        "fastest_gradcam": fastest,
        "speedup": speedup(fastest),
        "speedup_over_full": speedup("gradcam_full") if "gradcam_full" in rivals else None,
        "speedup_over_each": {name: speedup(name)["mean"] for name in sorted(rivals)},
    }


def _interval(value: Interval) -> dict[str, float]:
    return {key: round(float(number), 5) for key, number in vars(value).items()}
