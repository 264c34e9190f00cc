"""Two exports of one network in two processes are the same file, byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Runs in a process of its own, with a hash seed of its own.
SCRIPT = """
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.banks.objectives.kernel import parse_kernel
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.runtime.images.preprocess import Preprocessing

networks_file, photos, folder, which = sys.argv[1:]
folder = Path(folder)
dataset = load_dataset(Path(photos))
priced = replace(
    dataset, samples=tuple(replace(s, value=float(2 + n)) for n, s in enumerate(dataset.samples))
)
triplets, kernel = parse_objective("all-triplets"), parse_kernel("kernel:tau=0.1", "log")
if which == "tiny":
    spec = importlib.util.spec_from_file_location("networks", networks_file)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    recipe = Preprocessing(networks.SIZE[1], networks.SIZE[0])
    loaded = LoadedModel(networks.make_tiny(), recipe, "tinynet:make", "")
    wide = FoldOptions(transfer=2, neighbors=3, heatmap_size="input")
    half = replace(FoldOptions(), precision="fp16", input_type="uint8")
    variants = {
        "labels": (dataset, triplets, FoldOptions(), 18),
        "sampled": (dataset, parse_objective("sampled:3"), wide, 18),
        "fp16 in opset 17": (dataset, triplets, half, 17),
        "prices": (priced, kernel, FoldOptions(input_type="uint8"), 18),
    }
else:
    loaded = load_model("demo")
    options = FoldOptions(input_type="uint8", precision="fp16")
    variants = {"demo": (dataset, triplets, options, 17)}
for name, (data, goal, options, opset) in variants.items():
    out = folder / f"{name}.onnx"
    export_model(
        loaded, data, out, goal, options=options, opset=opset,
        bank_out=folder / f"{name}.safetensors",
    )
"""


def _start(networks, photos, folder, which, seed):
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, networks.__file__, str(photos), str(folder), which],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("which", ["tiny", "demo"])
def test_two_processes_write_the_same_bytes(which, networks, shared_photos, tmp_path):
    if which == "demo":
        pytest.importorskip("efficientnet_lite_pytorch")
    folders = [tmp_path / "first", tmp_path / "again"]
    running = [
        _start(networks, shared_photos, folder, which, seed) for seed, folder in enumerate(folders)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    first, again = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in folders
    )
    assert len(first) == (8 if which == "tiny" else 2)
    assert first == again
    # And the models are files of their own.
    models = [digest for name, digest in first.items() if name.endswith(".onnx")]
    assert len(set(models)) == len(models)
