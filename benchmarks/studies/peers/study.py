"""`foldcam bench peers` as one call: one network, every tool, time, memory and localization."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from foldcam.benchmarks.evaluation.documents import Progress, provenance, write_json
from foldcam.benchmarks.evaluation.graphs import NetworkChoice
from foldcam.benchmarks.studies.peers.choice import SCORE_CAM, builders, can_compile
from foldcam.benchmarks.studies.peers.measuring import localization, score_cam, timed
from foldcam.benchmarks.studies.peers.memory import measured, measured_openvino
from foldcam.benchmarks.studies.peers.openvino import METHODS as OPENVINO
from foldcam.benchmarks.studies.peers.openvino import Worker, openvino_peers, openvino_python
from foldcam.benchmarks.studies.peers.peer import FOLDCAM, PLAIN, Peer
from foldcam.benchmarks.studies.peers.preparing import prepared
from foldcam.benchmarks.studies.peers.results import Measured, differences, method, speedups
from foldcam.benchmarks.studies.peers.setting import Setting
from foldcam.export.grafting.versions import tool_versions
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.system.errors import FoldcamError

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
        options: see `PeersOptions`.
        progress: called with `(stage, done, total)`.
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
