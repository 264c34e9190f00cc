"""The demo's folded model for whoever needs a real network and has no photographs of their own.

python -m foldcam.benchmarks.studies.demo_model FOLDER [--size 224]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from foldcam.runtime.contract.gallery import gallery_path
from foldcam.runtime.system.errors import FoldcamError


def demo_model(folder: Path, size: str = "224") -> Path:
    """EfficientNet-Lite0 folded over the demo's views, with its gallery, if it is not there yet.

    Torch is used in a process of its own, so that this one stays as small as a device's.
    """
    model = _path(folder, size)
    if not (model.exists() and gallery_path(model).exists()):
        command = [sys.executable, "-m", "foldcam.benchmarks.studies.demo_model", str(folder)]
        command += ["--size", size]
        path = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            command, check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FoldcamError(f"The demo's model cannot be made: {last.rstrip('.')}.")
    return model


def make(folder: Path, size: str) -> None:
    """Write the views and fold the model."""
    from foldcam.benchmarks.commands.demo.photographs import Photographs
    from foldcam.export.banks.objectives.directions import parse_objective
    from foldcam.export.datasets import load_dataset
    from foldcam.export.exporting.exporter import export_model
    from foldcam.export.models.spec import load_model, with_overrides
    from foldcam.runtime.images.files import write_image

    views = folder / "views"
    for number, (label, image) in enumerate(Photographs(0).views()):
        write_image(views / label / f"{number:03d}.jpg", image)
    loaded = load_model("demo")
    export_model(
        loaded,
        load_dataset(views),
        _path(folder, size),
        parse_objective("all-triplets"),
        preprocessing=with_overrides(loaded.preprocessing, size=size),
        gallery=True,
    )


def _path(folder: Path, size: str) -> Path:
    return folder / f"demo-{size}.onnx"


def main() -> None:
    """What `demo_model` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", default="224")
    given = parser.parse_args()
    make(given.folder, given.size)


if __name__ == "__main__":
    main()
