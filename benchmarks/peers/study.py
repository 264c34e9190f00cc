"""`foldcam bench peers` as one call: one network, every tool, time, memory and localization."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.bootstrap import Interval, paired_bootstrap_of
from benchmarks.graphs import NetworkChoice, StageProgress, chosen_network, plain_graph, save_graph
from benchmarks.interleaved import Run, Timed, interleaved_runs, median_ratio
from benchmarks.localization.methods import Methods, Question
from benchmarks.localization.report import write_json
from benchmarks.localization.scores import Scores
from benchmarks.localization.study import split_samples
from benchmarks.localization.subjects import Subjects, load_subjects
from benchmarks.overhead.timing import open_session
from benchmarks.peers.choice import SCORE_CAM, builders, can_compile
from benchmarks.peers.libraries import score_cam_heat
from benchmarks.peers.memory import measured, measured_openvino
from benchmarks.peers.openvino import METHODS as OPENVINO
from benchmarks.peers.openvino import Worker, openvino_peers, openvino_python
from benchmarks.peers.peer import FOLDCAM, PLAIN, Asked, Floats, Peer
from benchmarks.peers.quality import Questions, map_difference, scores_of
from benchmarks.peers.setting import Setting
from benchmarks.provenance import provenance
from export.datasets import Dataset
from export.embedding_model import FEATURE_MAP
from export.exporter import export_model
from export.objectives import parse_objective
from export.versions import tool_versions
from runtime.bench.facts import machine_facts
from runtime.contract import EMBEDDING, IMAGE, NEIGHBOR, SIMILARITY
from runtime.errors import FoldcamError

RESULT = "peers.json"
_TIMED_IMAGES = 16
_COMPARED = 3
_WARM_UP = 5
_SLOW_RUNS = 2


@dataclass(frozen=True)
class PeersOptions:
    """What is measured.

    Attributes:
        network: which network.
        rounds: timed runs of each.
        openvino: folder of the environment for openvino_xai, made where there is none; None
            leaves it out.
        score_cam: images that Score-CAM explains; 0 leaves it out.
        images: test images that are explained; None takes all.
        memory: whether each is run once more in a process of its own.
        seed: of triplets, grids and draws.
        draws: of the bootstrap.
    """

    network: NetworkChoice = field(default_factory=NetworkChoice)
    rounds: int = 60
    openvino: Path | None = None
    score_cam: int = 6
    images: int | None = None
    memory: bool = True
    seed: int = 0
    draws: int = 2000


def run_peers(
    data: Path, out: Path, options: PeersOptions, progress: StageProgress
) -> dict[str, Any]:
    """Time, memory and localization of foldcam and of what would be used otherwise.

    Everything runs on one thread; in each round every peer sees the same image once, in an
    order that is drawn anew.

    Args:
        data: a CUB-200-2011 folder, or a CSV with boxes; as `evaluate localization`.
        out: folder of results: `peers.json`, the plot, the network and its graphs.
        options: see `PeersOptions`.
        progress: told `(stage, done, total)`.

    Returns:
        The document that was written.

    Raises:
        FoldcamError: unusable data or network, or the folder cannot be written.
    """
    started = time.monotonic()
    setting, questions, facts = _prepared(data, out, options, progress)
    notes: list[str] = []
    with ExitStack() as stack:
        python = _openvino(options.openvino, notes)
        peers = _built(setting, notes, progress)
        if python is not None:
            try:
                worker = Worker(python, setting.plain, [name for name, _ in OPENVINO.values()])
            except FoldcamError as error:
                notes.append(f"openvino_xai: not measured. {error}")
                python = None
            else:
                stack.callback(worker.close)
                peers.update((peer.name, peer) for peer in openvino_peers(worker))
        scores, shared = _localization(peers, setting, questions, progress)
        with threadpool_limits(1):
            seconds = _timed(peers, setting, options, progress)
    if options.score_cam:
        scores[SCORE_CAM], seconds[SCORE_CAM] = _score_cam(setting, questions, options, progress)
        peers[SCORE_CAM] = Peer(
            SCORE_CAM,
            f"Score-CAM in torch: {setting.network.feature_map_shape[0]} forward passes per image",
            f"torch {torch.__version__}",
            peers[PLAIN].run,
        )
    memories = _memories(peers, setting, python, progress) if options.memory else {}
    document: dict[str, Any] = {
        **provenance(),
        "device": machine_facts(),
        **facts,
        "rounds": options.rounds,
        "threads": 1,
        "methods": {
            name: _row(name, peers, seconds, scores, shared, memories, options) for name in peers
        },
        "against_foldcam": _differences(scores, shared, options),
        "summary": _summary(seconds, options),
        "notes": notes,
        "versions": {**tool_versions(), "torch_compile": str(can_compile()).lower()},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    write_json(out / RESULT, document)
    return document


def _prepared(
    data: Path, out: Path, options: PeersOptions, progress: StageProgress
) -> tuple[Setting, Questions, dict[str, Any]]:
    training, testing = split_samples(data, options.seed)
    choice = options.network
    file = out / "net.safetensors"
    loaded = chosen_network(choice, training, file, progress)
    recipe = choice.preprocessing or loaded.preprocessing
    setting = Setting(out, choice.model or str(file), choice.weights if choice.model else None)
    dataset = Dataset(data.resolve().name, "train", tuple(training))
    export_model(
        loaded,
        dataset,
        setting.folded,
        parse_objective("all-triplets"),
        preprocessing=recipe,
        progress=progress,
    )
    model = setting.network.to_onnx()
    save_graph(model, setting.embedder)
    save_graph(plain_graph(model), setting.plain)
    test = load_subjects(testing, recipe)
    asked, recall = _questions(setting, test, options.seed)
    count = min(options.images or len(test), len(test))
    questions = Questions(test, asked, recipe, options.seed, count)
    images = [questions.image(n) for n in range(min(_TIMED_IMAGES, len(test)))]
    setting.keep_sample(images, asked[0])
    facts = {
        "data": data.resolve().name,
        "images": {"train": len(training), "test": len(test), "explained": count},
        "network": choice.title,
        "training_epochs": None if choice.model else choice.training.epochs,
        "input": [recipe.width, recipe.height],
        "feature_map": list(setting.network.feature_map_shape),
        "embedding_size": setting.network.embedding_size,
        "recall_at_1": round(recall, 4),
    }
    return setting, questions, facts


def _questions(setting: Setting, test: Subjects, seed: int) -> tuple[list[Asked], float]:
    """What is asked of each test image: its row, as the folded graph returns it."""
    session = open_session(setting.folded)
    recipe, bank = setting.contract.preprocessing, setting.bank
    rows, embeddings = [], []
    for image in test.resized:
        given = {IMAGE: recipe.normalized(image[None])}
        neighbor, embedding, _ = session.run([NEIGHBOR, EMBEDDING, SIMILARITY], given)
        rows.append(int(neighbor[0, 0]))
        embeddings.append(embedding[0] / np.linalg.norm(embedding[0]))
    methods, numbers = Methods(setting.network, bank), np.asarray(rows, np.int64)
    triplets = methods.one_triplet(Question(numbers, seed))
    everything = methods.direction(numbers)
    asked = [
        Asked(
            row=row,
            embedding=embeddings[n].astype(np.float32),
            one_triplet=triplets[n],
            similarity=bank.embeddings[row],
            all_triplets=np.ascontiguousarray(everything[n], np.float32),
        )
        for n, row in enumerate(rows)
    ]
    right = np.asarray(bank.row_labels())[numbers] == np.asarray(test.labels)
    return asked, float(right.mean())


def _openvino(folder: Path | None, notes: list[str]) -> Path | None:
    if folder is None:
        notes.append("openvino_xai: not measured; --openvino VENV installs and measures it.")
        return None
    try:
        return openvino_python(folder)
    except FoldcamError as error:
        notes.append(f"openvino_xai: not measured. {error}")
        return None


def _built(setting: Setting, notes: list[str], progress: StageProgress) -> dict[str, Peer]:
    """Every peer that runs here; a note for each that does not."""
    images, asked = setting.sample()
    found: dict[str, Peer] = {}
    wanted = {name: build for name, build in builders().items() if name != SCORE_CAM}
    if not can_compile():
        notes.append("torch.compile: not measured; it needs a C++ compiler (g++ or clang++).")
    for done, (name, build) in enumerate(wanted.items()):
        progress("building", done, len(wanted))
        try:
            peer = build(setting)
            peer.run(images[0], asked)
        except FoldcamError as error:
            notes.append(f"{name}: not measured. {error}")
        except Exception as error:  # a library of somebody else, on a network of the user's
            if name in (PLAIN, FOLDCAM):
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            notes.append(f"{name}: not measured, it failed: {reason[0][:200]}")
        else:
            found[peer.name] = peer
    progress("building", len(wanted), len(wanted))
    return found


def _localization(
    peers: dict[str, Peer],
    setting: Setting,
    questions: Questions,
    progress: StageProgress,
) -> tuple[dict[str, Scores], dict[str, tuple[str, float]]]:
    """Scores by name, and whose scores a peer shares, with the difference of their maps.

    The Grad-CAMs that are written out differ in time alone: that their maps are the same is
    measured on a few images, and the scores are measured once.
    """
    # Nothing is timed yet.
    torch.set_num_threads(2)
    images, asked = setting.sample()
    scores: dict[str, Scores] = {}
    shared: dict[str, tuple[str, float]] = {}
    for name, peer in peers.items():
        if name in (PLAIN, "openvino_plain") or name.startswith("torch_plain"):
            continue
        like = _same_answer(name)
        if like is not None and like in scores:
            shared[name] = like, map_difference(peer, peers[like], images[:_COMPARED], asked)
            continue

        def tell(done: int, total: int, name: str = name) -> None:
            progress(f"localization: {name}", done, total)

        scores[name] = scores_of(peer.explain, questions, tell)
    torch.set_num_threads(1)
    return scores, shared


def _same_answer(name: str) -> str | None:
    parts = name.split("_")
    if parts[0] != "gradcam" or parts[1] not in ("full", "map", "head"):
        return None
    objective = [part for part in ("similarity", "all_triplets") if name.endswith(part)]
    return None if objective or name == "gradcam_full" else "gradcam_full"


def _timed(
    peers: dict[str, Peer], setting: Setting, options: PeersOptions, progress: StageProgress
) -> dict[str, Timed]:
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
        options.rounds,
        options.seed,
        _WARM_UP,
        lambda done, total: progress("timing", done, total),
    )


def _score_cam(
    setting: Setting, questions: Questions, options: PeersOptions, progress: StageProgress
) -> tuple[Scores, Timed]:
    """Timed in torch, twice; its maps by ONNX Runtime, which gives the same scores sooner."""
    images, asked = setting.sample()
    peer = builders()[SCORE_CAM](setting)
    runs = {SCORE_CAM: lambda number: _only_run(peer, images[number], asked)}
    seconds = interleaved_runs(runs, _SLOW_RUNS, options.seed, 0)
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
        min(options.score_cam, questions.count),
    )
    tell = lambda done, total: progress("localization: score_cam", done, total)  # noqa: E731
    return scores_of(explain, few, tell), seconds[SCORE_CAM]


def _only_run(peer: Peer, image: Floats, asked: Asked) -> None:
    peer.run(image, asked)


def _memories(
    peers: dict[str, Peer], setting: Setting, python: Path | None, progress: StageProgress
) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    names = [name for name in peers if name != SCORE_CAM]
    for done, name in enumerate(names):
        progress("memory", done, len(names))
        if name in OPENVINO and python is not None:
            found[name] = measured_openvino(python, setting, name)
            continue
        row = measured(setting, name.removesuffix("_written_out"))
        if row is not None:
            found[name] = row
    progress("memory", len(names), len(names))
    return found


def _row(
    name: str,
    peers: dict[str, Peer],
    seconds: dict[str, Timed],
    scores: dict[str, Scores],
    shared: dict[str, tuple[str, float]],
    memories: dict[str, dict[str, int]],
    options: PeersOptions,
) -> dict[str, Any]:
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
        ratio = median_ratio(times.wall, plain.wall, options.draws, options.seed)
        row["intervals"]["ratio_to_plain"] = _interval(ratio)
        row["ratio_to_plain"] = row["intervals"]["ratio_to_plain"]["mean"]
    else:
        row["ratio_to_plain"] = round(float(np.median(times.wall) / np.median(plain.wall)), 3)
    like = shared[name][0] if name in shared else name
    if name in shared:
        row["same_maps_as"], row["largest_map_difference"] = like, shared[name][1]
    if like in scores:
        row["images"] = scores[like].count
        for metric, value in scores[like].intervals(options.draws).items():
            row["intervals"][metric] = _interval(value)
            row[metric] = row["intervals"][metric]["mean"]
    if name in memories:
        row["loaded_megabytes"] = round(memories[name]["loaded"] / 1e6, 1)
        row["peak_megabytes"] = round(memories[name]["peak"] / 1e6, 1)
    return row


def _differences(
    scores: dict[str, Scores], shared: dict[str, tuple[str, float]], options: PeersOptions
) -> dict[str, Any]:
    """foldcam minus each other on the same images, paired."""
    ours = scores[FOLDCAM]
    found: dict[str, Any] = {}
    for name, other in scores.items():
        if name == FOLDCAM:
            continue
        found[name] = {
            metric: _interval(
                paired_bootstrap_of(
                    ours.statistics[metric], statistic, other.count, options.draws, options.seed
                )
            )
            for metric, statistic in other.statistics.items()
        }
    return found | {name: found[like] for name, (like, _) in shared.items() if like in found}


def _summary(seconds: dict[str, Timed], options: PeersOptions) -> dict[str, Any]:
    """How many times as fast the folded graph is as Grad-CAM in torch."""
    medians = {name: float(np.median(times.wall)) for name, times in seconds.items()}
    rivals = {name: value for name, value in medians.items() if "gradcam" in name}
    if not rivals:
        return {}
    fastest = min(rivals, key=lambda name: rivals[name])
    ours = seconds[FOLDCAM].wall

    def speedup(name: str) -> dict[str, float]:
        return _interval(median_ratio(seconds[name].wall, ours, options.draws, options.seed))

    return {
        "fastest_gradcam": fastest,
        "speedup": speedup(fastest),
        "speedup_over_full": speedup("gradcam_full") if "gradcam_full" in rivals else None,
        "speedup_over_each": {name: speedup(name)["mean"] for name in sorted(rivals)},
    }


def _interval(value: Interval) -> dict[str, float]:
    return {key: round(float(number), 5) for key, number in vars(value).items()}
