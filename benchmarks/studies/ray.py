"""Bank building on Ray: time by the number of workers, and equality with the local engine."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.bootstrap import bootstrap
from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset, Split, load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.scale_out.engine import BankOnRay, build_bank_file_on_ray
from foldcam.export.exporting.scale_out.sources import sharded
from foldcam.export.exporting.scale_out.workers import cluster
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.models.spec import load_model
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.text import aligned

RESULT = "scaling.json"
_OBJECTIVE = "all-triplets"
_BATCH = 16


@dataclass(frozen=True)
class RayOptions:
    """What is measured."""

    # numbers of processes; the first is what the others are compared with
    workers: tuple[int, ...] = (1, 2)
    rounds: int = 5  # how often all of them are built; they alternate
    shard_rows: int = 16  # images per shard
    split: Split = "all"  # of the data set
    draws: int = 2000  # of the bootstrap


def run_ray(
    model: str,
    data: Path,
    out: Path,
    options: RayOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the same bank again and again, alternately with each number of workers and locally.

    Seconds are those of the passes over the images, without the start of the cluster and of
    the workers, which does not grow with them. Each process has one thread.

    Args:
        model: MODEL, as `load_model` takes it.

    Returns:
        The document that is written as `scaling.json`.
    """
    options = options or RayOptions()
    report = progress or (lambda *_: None)
    dataset = load_dataset(data, options.split)
    seconds: dict[int, list[float]] = {count: [] for count in options.workers}
    local_seconds: list[float] = []
    made: BankOnRay | None = None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, cluster(None, max(options.workers)):
            expected = _local(model, dataset, Path(folder), [])
            for number in range(options.rounds):
                # Each round in another order, so that none always follows the same one.
                shift = number % len(options.workers)
                for count in options.workers[shift:] + options.workers[:shift]:
                    made = _on_ray(model, dataset, Path(folder), count, options)
                    seconds[count].append(sum(made.figures["stage_seconds"].values()))
                _local(model, dataset, Path(folder), local_seconds)
                report("rounds", number + 1, options.rounds)
    finally:
        torch.set_num_threads(threads)
    if made is None:
        raise FoldcamError("Nothing was measured: ask for one round at least.")
    found = made.built.report.bank
    document = {
        "network": load_model(model).name,
        "data": dataset.name,
        "images": found.rows,
        "labels": len(found.labels),
        "embedding_size": found.embedding_size,
        "channels": found.channels,
        "head_linear": made.built.report.head.linear,
        "objective": found.objective,
        "shard_rows": options.shard_rows,
        "rounds": options.rounds,
        "rows": _rows(seconds, local_seconds, found.rows, options),
        "worker_mebibytes": round(max(made.figures["worker_bytes"]) / 2**20),
        "difference": _difference(found, expected),
        "versions": {**tool_versions(), "ray": _ray_version()},
    }
    with atomic_path(out / RESULT) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _rows(
    seconds: dict[int, list[float]], local: Sequence[float], images: int, options: RayOptions
) -> dict[str, Any]:
    first = np.asarray(seconds[options.workers[0]])
    named = {"local": np.asarray(local)}
    named |= {str(count): np.asarray(times) for count, times in seconds.items()}
    rows = {}
    for name, times in named.items():
        speedup = bootstrap(first / times, lambda r: float(np.median(r)), options.draws)
        rows[name] = {
            "seconds": [round(float(value), 3) for value in times],
            "images_per_second": round(images / float(np.median(times)), 2),
            "speedup": {key: round(value, 3) for key, value in vars(speedup).items()},
        }
    return rows


def _local(model: str, dataset: Dataset, folder: Path, seconds: list[float]) -> Bank:
    loaded = load_model(model)
    started = time.perf_counter()
    built = build_bank_file(
        loaded,
        dataset,
        folder / "local.safetensors",
        parse_objective(_OBJECTIVE),
        batch_size=_BATCH,
    )
    seconds.append(time.perf_counter() - started)
    return built.report.bank


def _on_ray(
    model: str, dataset: Dataset, folder: Path, count: int, options: RayOptions
) -> BankOnRay:
    samples = tuple(replace(sample, path=sample.path.absolute()) for sample in dataset.samples)
    return build_bank_file_on_ray(
        model,
        sharded(dataset.name, dataset.split, samples, options.shard_rows),
        folder / "ray.safetensors",
        parse_objective(_OBJECTIVE),
        batch_size=_BATCH,
        workers=count,
    )


def _difference(found: Bank, expected: Bank) -> dict[str, float]:
    """The largest difference of any number between two banks of the same rows."""
    return {
        "embeddings": float(np.abs(found.embeddings - expected.embeddings).max()),
        "grad_weights": float(np.abs(found.row_grad_weights() - expected.row_grad_weights()).max()),
    }


def _ray_version() -> str:
    import ray

    version: str = ray.__version__
    return version


_HEADINGS = ("engine", "images per second", "seconds, median", "speed-up over one worker")
_IMAGES = (10**5, 10**6, 10**7, 10**8)
_LABELS = 100_000
_WORKERS = (4, 16, 64, 256)
_HASH_BYTES = 32
_POSITION_BYTES = 8
_FLOAT32 = 4
# Measured on 512,000 rows of 64 numbers and 51,200 of 1024: embeddings three times, and the rest.
_DRIVER_COPIES, _DRIVER_BYTES = 3, 300


def markdown_table(document: Mapping[str, Any]) -> str:
    """One line per engine and number of workers."""
    return markdown.table(_HEADINGS, _cells(document))


def text_table(document: Mapping[str, Any]) -> str:
    """The same for a terminal, with the difference between the engines."""
    lines = aligned([_HEADINGS, *_cells(document)])
    return "\n".join([*lines, setting(document)])


def setting(document: Mapping[str, Any]) -> str:
    """What was measured, in one sentence."""
    difference = document["difference"]
    return (
        f"{document['network']} on {document['images']} photographs of {document['data']}, shards "
        f"of {document['shard_rows']}, {document['rounds']} interleaved rounds, one thread per "
        f"process; the bank differs from the local engine's by at most "
        f"{difference['embeddings']:.1e} (embeddings) and {difference['grad_weights']:.1e} "
        f"(grad-weights); a worker held {document['worker_mebibytes']} MiB at most."
    )


def predicted(document: Mapping[str, Any]) -> str:
    """A model of more images, from the measured speed and the formats; nothing in it is measured.

    Compute is images over the measured speed of one worker. Bytes are those of the formats:
    per image an embedding, a hash and a position, and grad-weights of its own where the head
    is not linear. The driver holds all embeddings.
    """
    speed = document["rows"]["1"]["images_per_second"]
    size, channels = document["embedding_size"], document["channels"]
    row = _FLOAT32 * size + _HASH_BYTES + _POSITION_BYTES
    driver = _DRIVER_COPIES * _FLOAT32 * size + _DRIVER_BYTES
    headings = (
        "images", "core hours, one pass", "workers", "hours", "shards, linear head",
        "shards, other heads", "memory of the driver", "prototypes:5, 100,000 labels, linear head",
    )  # fmt: skip
    rows = []
    for images, workers in zip(_IMAGES, _WORKERS, strict=True):
        hours = images / speed / 3600
        labels = min(_LABELS, images)
        edge = labels * (5 * _FLOAT32 * size + _FLOAT32 * channels)
        cells = (
            f"{images:,}", f"{hours:,.0f}", f"{workers:,}", f"{hours / workers:,.1f}",
            _bytes(images * row), _bytes(images * (row + _FLOAT32 * channels)),
            _bytes(images * driver), _bytes(edge),
        )  # fmt: skip
        rows.append(cells)
    return markdown.table(headings, rows)


def _cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for name, row in document["rows"].items():
        speedup = row["speedup"]
        median = sorted(row["seconds"])[len(row["seconds"]) // 2]
        cells.append(
            (
                "local" if name == "local" else f"ray, {name} worker{'s' if name != '1' else ''}",
                f"{row['images_per_second']:.1f}",
                f"{median:.1f}",
                f"{speedup['mean']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})",
            )
        )
    return cells


def _bytes(count: float) -> str:
    for unit in ("MB", "GB"):
        if count < 1e9 or (unit == "GB" and count < 1e12):
            return f"{count / (1e6 if unit == 'MB' else 1e9):,.1f} {unit}"
    return f"{count / 1e12:,.1f} TB"
