"""Localization and time of peers that are built."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.interleaved import Run, Timed, interleaved_runs, open_session
from foldcam.benchmarks.evaluation.localization.evaluate import Scores
from foldcam.benchmarks.studies.peers.choice import SCORE_CAM, builders
from foldcam.benchmarks.studies.peers.libraries import score_cam_heat
from foldcam.benchmarks.studies.peers.peer import PLAIN, Asked, Floats, Peer
from foldcam.benchmarks.studies.peers.quality import Questions, map_difference, scores_of
from foldcam.benchmarks.studies.peers.setting import Setting
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE

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
