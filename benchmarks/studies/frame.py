"""Where a camera's frame is resized: on the host, or in the graph (`foldcam export --frame`).

    python3 -m foldcam.benchmarks.studies.frame [--provider cuda]

The same network and bank in one process, interleaved: from the frame in the host's memory to the
results. Time does not depend on what the weights and pixels are, so nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.benchmarks.cost.gate.subject import standard_subject
from foldcam.benchmarks.evaluation import markdown
from foldcam.benchmarks.evaluation.documents import provenance
from foldcam.benchmarks.evaluation.interleaved import Run, interleaved_runs, median_ratio
from foldcam.export.grafting.refold import fold_file, stored_options
from foldcam.export.grafting.unfold import unfold
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.backends import PROVIDERS, Provider
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.measurement.bench.facts import machine_facts
from foldcam.runtime.measurement.bench.loops import synthetic_frames
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.files import atomic_path

# The last falls into no equal parts at 224 x 224: no camera's, but the most that it can cost.
SIZES = ((640, 480), (1280, 720), (1920, 1080), (1279, 719))
HOST, BYTES, GRAPH = "host, float32", "host, uint8", "graph"
_DRAWS = 2000

Size = tuple[int, int]


def measure(
    provider: Provider, rounds: int, sizes: Sequence[Size] = SIZES, seed: int = 0
) -> dict[str, Any]:
    """Time the three ways for frames of some sizes.

    Args:
        sizes: `(width, height)` of the frames in pixels.

    Returns:
        For JSON: per size the milliseconds of each way by the wall clock and of the processor
        (median and quartiles), the ratio of the graph's to the host's, and the matrices' bytes.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="foldcam-frame-") as folder:
        subject = standard_subject(Path(folder))
        found = {
            f"{size[0]} x {size[1]}": _timed(
                subject.files["folded"], Path(folder), size, provider, rounds, seed
            )
            for size in sizes
        }
    return {
        "network": subject.title,
        "provider": provider,
        "rounds": rounds,
        "sizes": found,
        "device": machine_facts(),
        "versions": tool_versions(),
        **provenance(),
    }


def _timed(
    folded: Path, folder: Path, size: Size, provider: Provider, rounds: int, seed: int
) -> dict[str, Any]:
    bank = unfold(load_message(folded), read_contract(folded)).bank
    options = stored_options(folded)
    files = {HOST: folded}
    for name, frame in ((BYTES, None), (GRAPH, size)):
        files[name] = folder / f"{name}.onnx"
        fold_file(folded, bank, files[name], replace(options, input_type="uint8", frame=frame))
    frames = synthetic_frames(*size)

    def run(model: FoldedModel, number: int) -> None:
        model(frames[number % len(frames)])

    with ExitStack() as stack:
        runs: dict[str, Run] = {
            name: partial(run, stack.enter_context(FoldedModel.load(path, provider, 1)))
            for name, path in files.items()
        }
        seconds = interleaved_runs(runs, rounds, seed)
    clock = _clock(provider)
    ratio = median_ratio(
        getattr(seconds[GRAPH], clock), getattr(seconds[BYTES], clock), _DRAWS, seed
    )
    return {
        "ways": {
            name: {"wall": _quartiles(times.wall), "processor": _quartiles(times.processor)}
            for name, times in seconds.items()
        },
        "graph_over_host": {key: round(value, 4) for key, value in vars(ratio).items()},
        "bytes": files[GRAPH].stat().st_size - files[BYTES].stat().st_size,
    }


def _clock(provider: str) -> str:
    """What other programs disturb least, as long as all the work is the processor's."""
    return "processor" if provider == "cpu" else "wall"


def _quartiles(seconds: npt.NDArray[np.float64]) -> list[float]:
    return [round(1e3 * float(value), 3) for value in np.quantile(seconds, (0.25, 0.5, 0.75))]


def markdown_table(document: Mapping[str, Any]) -> str:
    """One line for each size of the frames."""
    clock = _clock(document["provider"])
    heads = ["frames", HOST, BYTES, GRAPH, "graph / host, uint8", "file grows by"]
    rows = [
        [
            size,
            *(_shown(found["ways"][name][clock]) for name in (HOST, BYTES, GRAPH)),
            markdown.interval(found["graph_over_host"], ".2f"),
            f"{found['bytes'] / 1e3:,.0f} kB",
        ]
        for size, found in document["sizes"].items()
    ]
    return markdown.table(heads, rows)


def setting(document: Mapping[str, Any]) -> str:
    """What it was measured on and when, as a line."""
    return (
        f"{document['network']}; {document['device']['processor']}, one thread, provider "
        f"{document['provider']}, {document['rounds']} interleaved rounds, {document['date']}"
    )


def _shown(quartiles: Sequence[float]) -> str:
    low, median, high = quartiles
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """As `python -m`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--provider", default="cpu", choices=PROVIDERS)
    parser.add_argument("--out", type=Path, default=Path("results/frame"))
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    document = measure(given.provider, given.rounds)
    given.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(given.out / f"{given.provider}.json") as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(markdown_table(document) + "\n")


if __name__ == "__main__":
    main()
