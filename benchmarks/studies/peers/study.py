"""`foldcam bench peers` as one call: one network, every tool, time, memory and localization."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from foldcam.benchmarks.evaluation.documents import Progress, provenance, write_json
from foldcam.benchmarks.evaluation.graphs import (
    NetworkChoice,
    chosen_network,
    plain_graph,
    save_graph,
)
from foldcam.benchmarks.evaluation.interleaved import open_session
from foldcam.benchmarks.evaluation.localization.methods import Methods, Question
from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, load_subjects
from foldcam.benchmarks.studies.peers.measuring import (
    Measured,
    Questions,
    differences,
    localization,
    method,
    score_cam,
    speedups,
    timed,
)
from foldcam.benchmarks.studies.peers.memory import measured, measured_openvino
from foldcam.benchmarks.studies.peers.openvino import METHODS as OPENVINO
from foldcam.benchmarks.studies.peers.openvino import Worker, openvino_peers, openvino_python
from foldcam.benchmarks.studies.peers.peer import (
    FOLDCAM,
    PLAIN,
    SCORE_CAM,
    Asked,
    Peer,
    Setting,
    builders,
    can_compile,
)
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.versions import tool_versions
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE, NEIGHBOR
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.errors import FoldcamError

_TIMED_IMAGES = 16


def prepared(
    data: Path,
    out: Path,
    choice: NetworkChoice,
    explained: int | None,
    seed: int,
    progress: Progress,
) -> tuple[Setting, Questions, dict[str, Any]]:
    """Train or load the network, fold it, and ask the folded graph about every test image.

    Args:
        explained: test images that are explained; None takes all.
    """
    training, testing = split_samples(data, seed)
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
    asked, recall = _questions(setting, test, seed)
    count = min(explained or len(test), len(test))
    questions = Questions(test, asked, recipe, seed, count)
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
        neighbor, embedding = session.run([NEIGHBOR, EMBEDDING], given)
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


RESULT = "peers.json"


@dataclass(frozen=True)
class PeersOptions:
    """What is measured."""

    network: NetworkChoice = field(default_factory=NetworkChoice)  # which network
    rounds: int = 60  # timed runs of each
    # folder of the environment for openvino_xai, made where there is none; None leaves it out
    openvino: Path | None = None
    score_cam: int = 6  # images that Score-CAM explains; 0 leaves it out
    images: int | None = None  # test images that are explained; None takes all
    memory: bool = True  # whether each is run once more in a process of its own
    seed: int = 0  # of triplets, grids and draws
    draws: int = 2000  # of the bootstrap


def run_peers(data: Path, out: Path, options: PeersOptions, progress: Progress) -> dict[str, Any]:
    """Time, memory and localization of foldcam and of what would be used otherwise.

    Everything runs on one thread; in each round every peer sees the same image once, in an
    order that is drawn again each time.

    Args:
        data: a CUB-200-2011 folder, or a CSV with boxes; as `evaluate localization`.
        out: folder of results: `peers.json`, the plot, the network and its graphs.
    """
    started = time.monotonic()
    setting, questions, facts = prepared(
        data, out, options.network, options.images, options.seed, progress
    )
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
        scores, shared = localization(peers, setting, questions, progress)
        with threadpool_limits(1):
            seconds = timed(peers, setting, options.rounds, options.seed, progress)
    if options.score_cam:
        scores[SCORE_CAM], seconds[SCORE_CAM] = score_cam(
            setting, questions, options.score_cam, options.seed, progress
        )
        peers[SCORE_CAM] = Peer(
            SCORE_CAM,
            f"Score-CAM in torch: {setting.contract.feature_map[0]} forward passes per image",
            f"torch {torch.__version__}",
            peers[PLAIN].run,
        )
    memories = _memories(peers, setting, python, progress) if options.memory else {}
    everything = Measured(peers, seconds, scores, shared, memories, options.draws, options.seed)
    document: dict[str, Any] = {
        **provenance(),
        "device": machine_facts(),
        **facts,
        "rounds": options.rounds,
        "threads": 1,
        "methods": {name: method(name, everything) for name in peers},
        "against_foldcam": differences(everything),
        "summary": speedups(everything),
        "notes": notes,
        "versions": {**tool_versions(), "torch_compile": str(can_compile()).lower()},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    write_json(out / RESULT, document)
    return document


def _openvino(folder: Path | None, notes: list[str]) -> Path | None:
    if folder is None:
        notes.append("openvino_xai: not measured; --openvino VENV installs and measures it.")
        return None
    try:
        return openvino_python(folder)
    except FoldcamError as error:
        notes.append(f"openvino_xai: not measured. {error}")
        return None


def _built(setting: Setting, notes: list[str], progress: Progress) -> dict[str, Peer]:
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


def _memories(
    peers: dict[str, Peer], setting: Setting, python: Path | None, progress: Progress
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
