"""Writing plots, and the plots of the documents.

python -m foldcam.benchmarks.studies.plots            # draw what is stale in docs/images/
python -m foldcam.benchmarks.studies.plots --check    # exit 1 and name what is stale
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldcam.benchmarks.evaluation.figure import SOURCE
from foldcam.runtime.system.files import sha256_of_file

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"

Draw = Callable[[Mapping[str, Any], Path, str], None]


def _peers(document: Mapping[str, Any], path: Path, source: str) -> None:
    from foldcam.benchmarks.studies.peers.report import plot

    plot(document, path, source)


def _scale(document: Mapping[str, Any], path: Path, source: str) -> None:
    from foldcam.benchmarks.studies.scale.report import plot

    plot(document, path, source)


def _latency(document: Mapping[str, Any], path: Path, source: str) -> None:
    from foldcam.benchmarks.cost.latency import plot

    plot(document, path, source)


PLOTS: dict[str, tuple[str, Draw]] = {
    "peers.png": ("peers/peers.json", _peers),
    "scale.png": ("scale/scale.json", _scale),
    "latency.png": ("latency/latency.json", _latency),
}
"""Picture of `docs/images/` -> stored result, and what draws it."""


def source_of(path: Path) -> str:
    """The hash that `save_figure` kept in a PNG; empty where there is none."""
    data = path.read_bytes()
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        if kind == b"tEXt" and body.startswith(SOURCE.encode() + b"\0"):
            return body.partition(b"\0")[2].decode("latin-1")
        place += 12 + length
    return ""


def stale() -> list[str]:
    """Pictures of stored results that are missing or were drawn from another result."""
    return [
        name
        for name, (result, _) in PLOTS.items()
        if (RESULTS / result).is_file()
        and (
            not (IMAGES / name).is_file()
            or source_of(IMAGES / name) != sha256_of_file(RESULTS / result)
        )
    ]


def main() -> None:
    """Draw what is stale, or name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    names = stale()
    for name in names:
        if not check:
            result, draw = PLOTS[name]
            path = RESULTS / result
            draw(json.loads(path.read_text("utf-8")), IMAGES / name, sha256_of_file(path))
        print(f"docs/images/{name}: {'differs from the results' if check else 'drawn'}")
    sys.exit(1 if check and names else 0)


if __name__ == "__main__":
    main()
