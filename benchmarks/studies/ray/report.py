"""The tables of bank building on Ray: what was measured, and what that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.runtime.system.text import aligned

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
