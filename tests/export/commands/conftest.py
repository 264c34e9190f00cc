"""Networks as a user writes them, and what the tests of the commands export."""

from __future__ import annotations

import shutil

import pytest

SOURCE = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from networks import make_tiny, SIZE
from foldcam.runtime.images.preprocess import Preprocessing
sys.path.pop(0)

def make(seed=0):
    print("loading my weights ...")
    module = make_tiny(seed)
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module

def other():
    return make(1)

def wrapped():
    from torch import nn
    return nn.Sequential(make())

def flat():
    from networks import FlattenHead
    module = FlattenHead()
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module

def several():
    from networks import PlainConv
    class Several(PlainConv):
        def forward(self, image):
            embedding = super().forward(image)
            return {{"mine": embedding, "other": -embedding.flip(1)}}
    import torch
    torch.manual_seed(0)
    module = Several()
    module.preprocessing = Preprocessing(SIZE[1], SIZE[0])
    return module
"""


@pytest.fixture
def model(working_directory, networks):
    """A module file in the working directory; returns its name."""
    folder = working_directory / "helpers"
    folder.mkdir()
    shutil.copy(networks.__file__, folder / "networks.py")
    (working_directory / "cli_net.py").write_text(SOURCE.format(folder=str(folder)))
    return "cli_net"


@pytest.fixture(scope="session")
def kept_files():
    """Name -> bytes of files that commands made, and would make again for every test."""
    return {}


@pytest.fixture
def exported(model, shared_photos, foldcam, working_directory, kept_files):
    """`model.onnx` in the working directory."""
    out = working_directory / "model.onnx"
    if "model.onnx" not in kept_files:
        status, _, err = foldcam("export", "cli_net:make", "--images", shared_photos)
        assert status == 0, err
        kept_files["model.onnx"] = out.read_bytes()
    out.write_bytes(kept_files["model.onnx"])
    return out


@pytest.fixture
def prices(shared_photos, working_directory):
    """`prices.csv`: each photograph with a price."""
    lines = [f"{path},{1000 * 2**n}" for n, path in enumerate(sorted(shared_photos.rglob("*.png")))]
    csv = working_directory / "prices.csv"
    csv.write_text("path,label\n" + "\n".join(lines) + "\n")
    return csv


@pytest.fixture
def classes(working_directory):
    path = working_directory / "classes.txt"
    path.write_text("".join(f"class {number}\n" for number in range(3)))
    return path
