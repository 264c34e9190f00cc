"""What ran on GPUs: the results of `tools/gpu_proof/run.py`, kept by the device's name.

A folder `results/DEVICE` that run.sh wrote is copied to `benchmarks/results/gpu/DEVICE` as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation import markdown

NOTHING = "*Not run: no GPU has been available.*"


def steps_table(results: Path) -> str:
    """Every step on every device: what became of it.

    Args:
        results: the folder with one folder per device; none need be there.
    """
    return _each_device(results, "proof.json", _steps)


def times_table(results: Path) -> str:
    """Milliseconds of folded graphs and of Grad-CAM in torch, on every device."""
    return _each_device(results, "gpu/gpu.json", _times)


def peers_table(results: Path) -> str:
    """The same for every way in which torch runs Grad-CAM."""
    return _each_device(results, "peers/gpu.json", _times)


def _each_device(results: Path, name: str, render: Callable[[dict[str, Any]], str]) -> str:
    files = sorted(results.glob(f"*/{name}"))
    blocks = [render(json.loads(path.read_text("utf-8"))) for path in files]
    return "\n\n".join(blocks) or NOTHING


def _steps(document: dict[str, Any]) -> str:
    device = document["device"]
    rows = [
        [step["name"], step["outcome"], f"{step['took']:.0f}", step["reason"].replace("|", "/")]
        for step in document["steps"]
    ]
    head = (
        f"{device.get('gpu', device['name'])}, {document['date'][:10]}, {document['commit'][:12]}"
    )
    return f"{head}:\n\n{markdown.table(['step', 'outcome', 's', 'why'], rows)}"


def _times(document: dict[str, Any]) -> str:
    rows = []
    for case in document["cases"]:
        graph = " in a CUDA graph" if case["cuda_graph"] else ""
        kind = f"{case['network']}, batch {case['batch']}, {case['precision']}{graph}"
        for name, milliseconds in case["milliseconds"].items():
            ratio = case["ratio_to_plain"].get(name)
            over = "" if ratio is None else f"{ratio['ratio']:.3f}"
            spread = "" if ratio is None else f" ({ratio['low']:.3f} to {ratio['high']:.3f})"
            rows.append([kind, name, f"{milliseconds:.3f}", over + spread])
    device = document["device"]
    head = f"{device.get('name', device['kind'])}, onnxruntime {device['onnxruntime']}"
    table = markdown.table(["network", "method", "ms", "time / plain graph"], rows)
    return f"{head}:\n\n{table}"
