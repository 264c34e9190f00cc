"""`foldcam evaluate architectures`: every architecture of the zoo, as a table."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import Progress, write_json
from foldcam.benchmarks.studies.architectures.parity import try_architecture
from foldcam.benchmarks.studies.architectures.zoo import architectures
from foldcam.export.grafting.versions import tool_versions

RESULT = "architectures.json"


def run_architectures(out: Path, progress: Progress) -> dict[str, Any]:
    """Export, verify and compile every architecture.

    Args:
        progress: called with `(stage, done, total)`.

    Returns:
        The document that was written: `architectures.<name>.<field of Row>`.
    """
    zoo = architectures()
    rows: dict[str, Any] = {}
    for number, (name, architecture) in enumerate(zoo.items()):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = try_architecture(architecture, Path(folder)).document()
        progress("architectures", number + 1, len(zoo))
    document = {"architectures": rows, "versions": tool_versions()}
    write_json(out / RESULT, document)
    return document


def markdown_table(document: dict[str, Any]) -> str:
    """The table of README."""
    heads = (
        "network", "what is peculiar", "feature map found", "D", "cosine to torch",
        "heatmap differs by", "TensorRT RTX",
    )  # fmt: skip
    rows = []
    for name, row in document["architectures"].items():
        built = {True: "builds", False: "**fails**", None: "not tried"}[row["tensorrt_rtx"]]
        shape = " x ".join(map(str, row["feature_map"]))
        rows.append([
            name, row["what"], f"`{row['layer']}` {shape}", str(row["embedding_size"]),
            f"{row['embedding_cosine_worst']:.6f}", f"{row['heatmap_difference_worst']:.0e}", built,
        ])  # fmt: skip
    return markdown.table(heads, rows)


def failed(document: dict[str, Any]) -> list[str]:
    """Names of the architectures that `foldcam verify` or TensorRT RTX refuse."""
    return [
        name
        for name, row in document["architectures"].items()
        if not row["passed"] or row["tensorrt_rtx"] is False
    ]
