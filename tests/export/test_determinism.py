"""Two exports of one network in two processes are the same file, byte for byte."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foldcam.export.networks.torch_cut import TorchNetwork

PROGRAM = Path(__file__).with_name("write_models.py")


@pytest.fixture(scope="module")
def written(shared_photos, tmp_path_factory, torch_exports):
    """Two folders of the same models, of this process and of one with another hash seed."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "again")]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    again = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(shared_photos), str(folders[1])],
        env={**os.environ, "PYTHONHASHSEED": seed},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    spec = importlib.util.spec_from_file_location("write_models", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    torch_exports.clear()
    program.write_models(shared_photos, folders[0])
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    return [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in folders
    ]


@pytest.mark.parametrize("which", ["tiny", "demo"])
def test_two_processes_write_the_same_bytes(which, written):
    if which == "demo" and not importlib.util.find_spec("efficientnet_lite_pytorch"):
        pytest.skip("needs the weights: foldcam[demo]")
    first, again = (
        {
            name: digest
            for name, digest in each.items()
            if name.startswith("demo.") == (which == "demo")
        }
        for each in written
    )
    assert len(first) == (8 if which == "tiny" else 2)
    assert first == again
    # And the models are files of their own.
    models = [digest for name, digest in first.items() if name.endswith(".onnx")]
    assert len(set(models)) == len(models)


def test_an_export_that_is_kept_is_not_taken_for_that_of_other_weights(networks, torch_exports):
    """As the tests keep exports, which the test above compares with those of a bare process."""
    torch.manual_seed(0)
    module = networks.PlainConv()
    first = TorchNetwork(module, networks.SIZE).to_onnx().SerializeToString()
    kept = dict(torch_exports)
    assert TorchNetwork(module, networks.SIZE).to_onnx().SerializeToString() == first
    assert torch_exports == kept
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    assert TorchNetwork(module, networks.SIZE).to_onnx().SerializeToString() != first
    assert TorchNetwork(module, networks.SIZE).to_onnx(17).opset_import[0].version == 17
    assert len(torch_exports) == len(kept) + 2
