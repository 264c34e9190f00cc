"""Every command that takes a file, run on one in one process: `strangers.py PHOTOS FILE...`.

Prints one JSON line per call: the arguments, the status, standard error. A file that made the
process do something else than that is found by what is missing, or by what it left behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

from foldcam.runtime.cli.foldcam import GROUP, gather
from foldcam.runtime.cli.runtime import app as runtime
from foldcam.runtime.pipeline.config.loading import tomllib
from foldcam.runtime.system.command import run_app

ROOT = Path(__file__).resolve().parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
RUNTIME = (
    "run {file} --file {photo} --provider cpu --jsonl lines.jsonl",
    "inspect {file}",
    "bench {file} --backend onnxruntime --provider cpu --passes 2 --warm-up 0",
    "build {file}",
    "build {file} --precision auto --candidate {file} --images {photos}",
    "doctor {file}",
    "self-test {file}",
    "gate {file} --images {photos}",
)
FOLDCAM = (
    "verify {file} --most 2",
    "verify {file} --most 2 --against {file}",
    "check {file} --target all",
    "fold {file} --bank {bank} --out folded.onnx",
    "gallery {file} --images {photos} --out g.gallery",
    "calibrate {file} --images {photos} --out int8.onnx",
    "evaluate retrieval {file} --images {photos} --split all",
    "bench latency {file} --out latency --passes 2 --warm-up 0 --rate 0",
    "export {file} --images {photos} --size 14x10 --out exported.onnx",
    "train {file} --images {photos} --out trained.safetensors --epochs 1",
    "bank build {file} --images {photos} --out built.safetensors",
    "bank add {bank} {file} --images {photos} --out more.safetensors",
    "bank stats {file}",
    "bank audit {file}",
)


def main() -> None:
    """Run them all."""
    photos, bank, *files = sys.argv[1:]
    app = gather([EntryPoint(name, value, GROUP) for name, value in DECLARED.items()])
    photo = sorted(Path(photos).rglob("*.png"))[0]
    for file in files:
        for program, line in [("runtime", x) for x in RUNTIME] + [("foldcam", x) for x in FOLDCAM]:
            words = [
                word.format(file=file, photos=photos, photo=photo, bank=bank)
                for word in line.split()
            ]
            sys.argv = [program, *words]
            out, err = io.StringIO(), io.StringIO()
            status = None
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    run_app(runtime if program == "runtime" else app, program)
                except SystemExit as end:
                    status = end.code
            print(json.dumps([line, Path(file).name, status, err.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
