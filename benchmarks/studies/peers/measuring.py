"""Localization and time of peers that are built, as rows of the result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from foldcam.benchmarks.evaluation.bootstrap import Interval, paired_bootstrap_of
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.interleaved import (
    Run,
    Timed,
    interleaved_runs,
    median_ratio,
    open_session,
)
from foldcam.benchmarks.evaluation.localization.boxes import pixel_average_precision
from foldcam.benchmarks.evaluation.localization.evaluate import Scores, per_subject
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing
from foldcam.benchmarks.evaluation.localization.subjects import (
    Grid,
    Subjects,
    draw_grids,
    grid_image,
)
from foldcam.benchmarks.studies.peers.gradcam import score_cam_heat
from foldcam.benchmarks.studies.peers.peer import (
    FOLDCAM,
    PLAIN,
    SCORE_CAM,
    Asked,
    Floats,
    Peer,
    Setting,
    builders,
)
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.files import atomic_path, sha256_of_file

_REPEATS = 2
SIDE = 2


@dataclass(frozen=True)
class Questions:
    """The test images with what is asked of each, and the grids they stand in."""

    test: Subjects  # the images
    asked: Sequence[Asked]  # one question per image
    recipe: Preprocessing  # of the network
    seed: int  # of the grids
    count: int  # the first so many images are explained; the others only stand in grids

    def key(self, setting: Setting) -> str:
        """A name for everything that the answers depend on besides the method."""
        digest = hashlib.sha256(f"{self.seed} {self.count} {self.recipe}".encode())
        for path in (setting.folded, setting.embedder):
            digest.update(sha256_of_file(path).encode())
        for image in self.test.images:
            digest.update(image.tobytes())
        return digest.hexdigest()[:16]

    def grids(self) -> list[Grid]:
        """The 2 x 2 grids that ask for one of the first `count` images."""
        drawn = draw_grids(self.test.labels, SIDE, _REPEATS, self.seed)
        return [grid for grid in drawn if grid.asked < self.count]

    def image(self, number: int) -> Floats:
        """`float32 [1, 3, H, W]`."""
        return self.recipe.normalized(self.test.resized[number][None])


def scores_of(
    explain: Callable[[Floats, Asked, bool], Floats],
    questions: Questions,
    kept: Path,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Scores:
    """`grid_pointing` and `pixel_ap` of one way to a heatmap.

    Args:
        explain: image, question, whether it is a grid -> heatmap.
        kept: where the maps are kept, so that a later call with the same questions goes on from
            them.
    """
    grids = questions.grids()
    if not kept.is_file():
        maps, shares = _answers(explain, questions, grids, on_progress)
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, maps=maps, shares=shares)
    with np.load(kept) as stored:
        maps, shares = stored["maps"], stored["shares"]
    recipe, count = questions.recipe, questions.count
    scores = Scores(count)
    size = (recipe.height, recipe.width)
    precision = pixel_average_precision(maps, questions.test.boxes[:count], size)
    scores.statistics["pixel_ap"] = precision.pooled
    scores.add_values("grid_pointing", per_subject(grids, list(shares), count))
    return scores


def _answers(
    explain: Callable[[Floats, Asked, bool], Floats],
    questions: Questions,
    grids: Sequence[Grid],
    on_progress: Callable[[int, int], None],
) -> tuple[Floats, Floats]:
    """Heatmaps `[N, h, w]` of the single images, and the share of heat in each grid's cell."""
    recipe, count = questions.recipe, questions.count
    maps = []
    for number in range(count):
        maps.append(explain(questions.image(number), questions.asked[number], False))
        on_progress(number + 1, count + len(grids))
    shares = []
    for number, grid in enumerate(grids):
        picture = grid_image(grid, questions.test.images, recipe)
        heat = explain(recipe.normalized(picture[None]), questions.asked[grid.asked], True)
        shares.append(grid_pointing(np.maximum(heat, 0), SIDE, SIDE, grid.cell))
        on_progress(count + number + 1, count + len(grids))
    return np.stack(maps).astype(np.float32), np.asarray(shares, np.float32)


def map_difference(one: Peer, other: Peer, images: Sequence[Floats], asked: Asked) -> float:
    """The greatest difference of two peers' heatmaps, each divided by its maximum."""
    worst = 0.0
    for image in images:
        maps = [peer.run(image, asked) for peer in (one, other)]
        scaled = [heat / max(float(heat.max()), 1e-20) for heat in maps]
        worst = max(worst, float(np.abs(scaled[0] - scaled[1]).max()))
    return worst


_COMPARED = 3
_WARM_UP = 5
_SLOW_RUNS = 1
# Of the Grad-CAMs with the same maps the one that is soonest done.
_REFERENCE = "gradcam_head"


def localization(
    peers: dict[str, Peer],
    setting: Setting,
    questions: Questions,
    progress: Progress,
) -> tuple[dict[str, Scores], dict[str, tuple[str, float]]]:
    """Scores by name, and whose scores a peer shares, with the difference of their maps.

    The Grad-CAMs that are written out differ in time alone: that their maps are the same is
    measured on a few images, and the scores are measured once.
    """
    images, asked = setting.sample()
    scores: dict[str, Scores] = {}
    shared: dict[str, tuple[str, float]] = {}
    folder, key = setting.folder / "maps", questions.key(setting)
    # The one that the others are compared with comes first.
    for name in sorted(peers, key=lambda name: name != _REFERENCE):
        peer = peers[name]
        if name in (PLAIN, "openvino_plain") or name.startswith("torch_plain"):
            continue
        like = _same_answer(name)
        if like is not None and like in scores:
            shared[name] = like, map_difference(peer, peers[like], list(images[:_COMPARED]), asked)
            continue

        def on_progress(done: int, total: int, name: str = name) -> None:
            progress(f"localization: {name}", done, total)

        scores[name] = scores_of(peer.explain, questions, folder / f"{key}-{name}.npz", on_progress)
    return scores, shared


def _same_answer(name: str) -> str | None:
    parts = name.split("_")
    if parts[0] != "gradcam" or parts[1] not in ("full", "map", "head"):
        return None
    objective = [part for part in ("similarity", "all_triplets") if name.endswith(part)]
    return None if objective or name == _REFERENCE else _REFERENCE


def timed(
    peers: dict[str, Peer], setting: Setting, rounds: int, seed: int, progress: Progress
) -> dict[str, Timed]:
    """Seconds of each peer, all of them once in every round, each on one thread."""
    images, asked = setting.sample()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    def run_of(peer: Peer) -> Run:
        def run(number: int) -> tuple[float, float] | None:
            peer.run(images[number % len(images)], asked)
            return peer.remote_times() if peer.remote_times else None

        return run

    return interleaved_runs(
        {name: run_of(peer) for name, peer in peers.items()},
        rounds,
        seed,
        _WARM_UP,
        lambda done, total: progress("timing", done, total),
    )


def score_cam(
    setting: Setting, questions: Questions, count: int, seed: int, progress: Progress
) -> tuple[Scores, Timed]:
    """Score-CAM on `count` images.

    It is timed in torch, once; its maps come by ONNX Runtime, which gives the same scores
    sooner.
    """
    images, asked = setting.sample()
    peer = builders()[SCORE_CAM](setting)
    runs = {SCORE_CAM: lambda number: _only_run(peer, images[number], asked)}
    seconds = interleaved_runs(runs, _SLOW_RUNS, seed, 0)
    embedder = open_session(setting.embedder)

    def explain(image: Floats, asked: Asked, _: bool) -> Floats:
        feature_map = embedder.run([FEATURE_MAP], {IMAGE: image})[0]
        return score_cam_heat(image, feature_map, embed, asked)

    def embed(batch: Floats) -> Floats:
        found = embedder.run([EMBEDDING], {IMAGE: batch})[0]
        unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    few = Questions(
        questions.test,
        questions.asked,
        questions.recipe,
        questions.seed,
        min(count, questions.count),
    )
    on_progress = lambda done, total: progress("localization: score_cam", done, total)  # noqa: E731
    kept = setting.folder / "maps" / f"{few.key(setting)}-{SCORE_CAM}.npz"
    return scores_of(explain, few, kept, on_progress), seconds[SCORE_CAM]


def _only_run(peer: Peer, image: Floats, asked: Asked) -> None:
    peer.run(image, asked)


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
