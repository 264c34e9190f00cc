"""Frames per second of a whole run over those of the backend alone, on the same frames.

One round runs both over the same video, in an order that is drawn. The backend alone gets
the frames decoded and preprocessed beforehand: what remains is the forward pass, which no
pipeline can beat. The ratio is taken within each round, since both then meet the same load.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.commands.demo.photographs import Photographs
from foldcam.benchmarks.commands.demo.run import write_video
from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.bootstrap import bootstrap
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.runtime.backends import Backend, open_backend
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.model_input import Batch
from foldcam.runtime.pipeline.run import run
from foldcam.runtime.sinks import Sink
from foldcam.runtime.sinks.jsonl import JsonlSink
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError

GOAL = 0.95
RESULT = "pipeline.json"
VARIANTS = ("no sink", "JSON lines")


@dataclass(frozen=True)
class PipelineOptions:
    """What is measured."""

    model: Path | None = None  # a folded model; None makes the demo's
    video: Path | None = None  # None makes a film of the demo's scenes
    frames: int = 480  # of the video at most, all of which are held in memory
    batch: int = 1  # images per forward pass
    threads: int = 1  # of the backend, on the CPU
    rounds: int = 15  # repeats of everything
    seed: int = 0  # of the order within a round
    draws: int = 2000  # of the bootstrap


def run_pipeline_study(
    out: Path,
    options: PipelineOptions,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure, and write `pipeline.json` into a folder."""
    model = options.model or demo_model(out)
    video = options.video or _film(out / "scenes.mp4", options.frames)
    backend = open_backend(model, "cpu", options.threads)
    batches, size = _prepared(backend, video, options)
    count = sum(len(batch.rows) for batch in batches)
    names = ("backend", *VARIANTS)
    seconds = {name: np.empty(options.rounds) for name in names}
    generator = np.random.default_rng(options.seed)
    with FoldedModel(backend) as folded:
        _alone(backend, batches[: max(1, 20 // options.batch)])
        for number in range(options.rounds):
            for position in generator.permutation(len(names)):
                name = names[int(position)]
                if name == "backend":
                    seconds[name][number] = _alone(backend, batches)
                else:
                    seconds[name][number] = _whole(folded, video, name, out, options, count)
            if on_progress is not None:
                on_progress("rounds", number + 1, options.rounds)
    document = {
        "settings": {
            **asdict(options),
            "model": model.name,
            "network": backend.contract.origin.network,
            "input": f"{backend.contract.preprocessing.width} x "
            f"{backend.contract.preprocessing.height}",
            "video": f"{size[0]} x {size[1]}",
            "frames": count,
            "backend": f"{backend.name} on {backend.device}",
            "processor": platform.machine(),
            "goal": GOAL,
        },
        "backend": {"fps": round(count / float(np.median(seconds["backend"])), 2)},
        "variants": {
            name: _row(seconds["backend"], seconds[name], count, options) for name in VARIANTS
        },
    }
    document["passed"] = document["variants"][VARIANTS[0]]["ratio"]["mean"] >= GOAL
    return document


def _row(alone: Any, whole: Any, count: int, options: PipelineOptions) -> dict[str, Any]:
    ratio = bootstrap(
        alone / whole, lambda ratios: float(np.median(ratios)), options.draws, options.seed
    )
    return {
        "fps": round(count / float(np.median(whole)), 2),
        "ratio": {name: round(value, 4) for name, value in asdict(ratio).items()},
    }


def _prepared(
    backend: Backend, video: Path, options: PipelineOptions
) -> tuple[list[Batch], tuple[int, int]]:
    """All frames of the film, ready for the network."""
    batches: list[Batch] = []
    size = (0, 0)
    with open_source(str(video)) as source:
        if source.stills:
            raise FoldcamError(f"{video} is a photograph: give a video.")
        for frame in source:
            if frame.index >= options.frames:
                break
            if not batches or batches[-1].full:
                batches.append(Batch(backend.contract, options.batch))
            batches[-1].add(frame.image)
            size = (frame.image.shape[1], frame.image.shape[0])
    if not batches:
        raise FoldcamError(f"{video} has no frame that can be decoded.")
    return batches, size


def _alone(backend: Backend, batches: Sequence[Batch]) -> float:
    begun = time.perf_counter()
    for batch in batches:
        backend.run(batch.images)
    return time.perf_counter() - begun


def _whole(
    folded: FoldedModel, video: Path, name: str, out: Path, options: PipelineOptions, count: int
) -> float:
    """Everything: opening the film, threads, decoding, preprocessing, inference, sinks."""
    begun = time.perf_counter()
    sinks: list[Sink] = [JsonlSink(str(out / "lines.jsonl"), True)] if name == VARIANTS[1] else []
    summary = run(open_source(str(video)), folded, sinks, flow=FlowOptions(batch=options.batch))
    seconds = time.perf_counter() - begun
    if summary.frames < count:
        raise FoldcamError(f"The pipeline processed {summary.frames} of {count} frames.")
    # A film may be longer than what is held in memory for the backend alone.
    return seconds * count / summary.frames


def _film(path: Path, frames: int) -> Path:
    if not path.exists():
        pictures = [scene.image for scene in Photographs(0).scenes()]
        # Ten frames lead from one scene to the next.
        repeats = -(-frames // (10 * len(pictures)))
        write_video(path, pictures * repeats)
    return path


def markdown_table(document: dict[str, Any]) -> str:
    """Frames per second and ratio of each variant."""
    alone = f"{document['backend']['fps']:.1f}"
    rows = [["the backend alone, frames prepared beforehand", alone, "1"]]
    for name, row in document["variants"].items():
        what = f"the whole pipeline from a video file, {name}"
        rows.append([what, f"{row['fps']:.1f}", markdown.interval(row["ratio"])])
    return markdown.table(["what runs", "frames per second", "ratio to the backend alone"], rows)


def setting(document: dict[str, Any]) -> str:
    """On what it was measured."""
    settings = document["settings"]
    return (
        f"{settings['network']}, input {settings['input']}, {settings['backend']} with "
        f"{settings['threads']} thread, batch {settings['batch']}; {settings['frames']} frames of "
        f"a video of {settings['video']}; median of {settings['rounds']} rounds, both in "
        "drawn order, with the bootstrap's 95 % interval. Goal: at least "
        f"{settings['goal']:.2f} without a sink."
    )


def text_table(document: dict[str, Any]) -> str:
    """The same for a terminal."""
    settings = document["settings"]
    lines = [
        f"{settings['frames']} frames of {settings['video']}, {settings['backend']}, "
        f"{settings['threads']} thread, batch {settings['batch']}, {settings['rounds']} rounds",
        f"{'backend alone':<24} {document['backend']['fps']:8.1f} fps",
    ]
    for name, row in document["variants"].items():
        ratio = row["ratio"]
        lines.append(
            f"{'pipeline, ' + name:<24} {row['fps']:8.1f} fps  ratio {ratio['mean']:.3f} "
            f"({ratio['low']:.3f} to {ratio['high']:.3f})"
        )
    lines.append(f"goal {settings['goal']}: {'reached' if document['passed'] else 'MISSED'}")
    return "\n".join(lines)
