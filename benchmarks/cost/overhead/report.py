"""The overhead table, for the terminal and for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.runtime.system.text import aligned

_HEADINGS = (
    "bank rows",
    "search",
    "time / plain graph ↓",
    "processor time ↓",
    "MB added ↓",
    "recall@1 lost ↓",
    "grid pointing lost ↓",
    "same row ↑",
)


def markdown_table(document: Mapping[str, Any]) -> str:
    """One line per bank size."""
    return markdown.table(_HEADINGS, _cells(document))


def setting(document: Mapping[str, Any]) -> str:
    """What was measured, in one sentence."""
    width, height = document["input"]
    views = document["augmentation"]["views_per_image"]
    return (
        f"{document['network']}, input {width} x {height}, D = {document['embedding_size']}, "
        f"{document['images']['train']} training photographs as {views} views of "
        f"{document['augmentation']['regions_per_view']} regions each; "
        f"{document['rounds']} interleaved runs of each graph in ONNX Runtime on one thread, "
        f"plain graph {document['plain_milliseconds']} ms."
    )


def markdown_probes(document: Mapping[str, Any]) -> str:
    """Fidelity by the lists that are searched, for the banks that are searched in lists."""
    heads = ["bank rows", "lists searched", "same row", "same label", "similarity lost"]
    lines = [
        [
            f"{int(count):,}", probes, f"{row['same_row']:.1%}", f"{row['same_label']:.1%}",
            f"{row['similarity_lost_mean']:.5f}",
        ]
        for count, rows in _by_number(document["rows"])
        for probes, row in _by_number(rows["probes"])
    ]  # fmt: skip
    return markdown.table(heads, lines)


def text_table(document: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    return "\n".join(aligned([_HEADINGS, *_cells(document)]))


def _cells(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{int(count):,}",
            f"{row['search']}, {row['embeddings']}",
            f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            f"{row['processor_ratio']['mean']:.3f}",
            f"{row['bytes_added'] / 1e6:.1f}",
            _lost(row["recall_at_1_lost"]),
            _lost(row["grid_pointing_lost"]),
            f"{row['same_row']:.1%}",
        )
        for count, row in _by_number(document["rows"])
    ]


def _by_number(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Stored results are sorted by name, and 10000 comes before 300 there."""
    return sorted(table.items(), key=lambda item: int(item[0]))


def _lost(interval: Mapping[str, float]) -> str:
    # Adding zero makes a rounded -0 plain.
    mean, low, high = (round(interval[name], 4) + 0.0 for name in ("mean", "low", "high"))
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"
