"""A signal ends `foldcam` with one sentence and its own status, and nothing unfinished stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NETWORK = """
from torch import nn
from foldcam.runtime.images.preprocess import Preprocessing

class Tiny(nn.Module):
    preprocessing = Preprocessing(32, 32)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
                                  nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))

def make():
    return Tiny()

class Leaves(Tiny):
    def forward(self, x):
        raise SystemExit(0)

def leaves():
    return Leaves()
"""
# The signal comes when an unfinished file is about to get its name.
STOP = """
import os, pathlib, signal
replace = pathlib.Path.replace
def stopped(self, target):
    if ".partial" in self.name:
        os.kill(os.getpid(), int(os.environ["STOP_BY"]))
    return replace(self, target)
pathlib.Path.replace = stopped
"""


def foldcam(folder, *arguments, **environment):
    kept = {**os.environ, "PYTHONPATH": f"{folder / 'code'}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'foldcam'\n"
         "from foldcam.runtime.cli.entry import foldcam; foldcam()", *map(str, arguments)],
        env={**kept, "OMP_NUM_THREADS": "1", **environment}, cwd=folder, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def workplace(tmp_path, photos):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_network.py").write_text(NETWORK)
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_stopped_leaves_nothing_unfinished(workplace, photos, number):
    (workplace / "code" / "sitecustomize.py").write_text(STOP)
    before = sorted(workplace.rglob("*"))
    done = foldcam(
        workplace, "bank", "build", "own_network:make", "--images", photos, "--out",
        "bank.safetensors", STOP_BY=str(int(number)),
    )  # fmt: skip
    assert done.returncode == 128 + number
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"stopped by {number.name}")
    assert "Traceback" not in done.stderr
    left = [
        path
        for path in sorted(workplace.rglob("*"))
        if path not in before and "__pycache__" not in path.parts
    ]
    # What is kept to go on from is finished, as far as it goes.
    assert [path.name for path in left if "partial" in path.name] == []
    assert not (workplace / "bank.safetensors").exists()


def test_a_network_that_ends_the_program_is_an_error(workplace, photos):
    done = foldcam(
        workplace, "bank", "build", "own_network:leaves", "--images", photos, "--out",
        "bank.safetensors",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "SystemExit" in last
    assert not (workplace / "bank.safetensors").exists()


# One process for all, since each would load torch again.
EACH = """
import json, sys
from foldcam.runtime.system.command import run_app
from foldcam.runtime.cli.foldcam import installed
app = installed()
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    print(*arguments, file=sys.stderr)
    try:
        run_app(app, "foldcam")
    except SystemExit as end:
        print(end.code, file=sys.stderr)
"""


def test_a_pipe_in_place_of_a_file_is_refused_at_once(workplace, photos):
    calls = [
        ("export", "pipe.onnx", "--images", "photos"),
        ("export", "pipe.pt2", "--images", "photos"),
        ("export", "pipe.safetensors", "--images", "photos"),
        ("export", "own_network:make", "--weights", "pipe.safetensors", "--images", "photos"),
        ("export", "own_network:make", "--weights", "pipe.pth", "--images", "photos"),
        ("export", "own_network:make", "--images", "pipe.csv"),
        ("export", "own_network:make", "--images", "photos", "--out", "pipe.onnx"),
        ("check", "pipe.onnx", "--target", "all"),
        ("verify", "pipe.onnx"),
        ("bank", "stats", "pipe.safetensors"),
        ("calibrate", "pipe.onnx", "--images", "photos", "--out", "int8.onnx"),
    ]
    for name in {word for call in calls for word in call if word.startswith("pipe.")}:
        os.mkfifo(workplace / name)
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(calls)],
        env={**os.environ, "PYTHONPATH": f"{workplace / 'code'}{os.pathsep}{ROOT}"},
        cwd=workplace, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    for call in calls:
        said = lines[lines.index(" ".join(call)) + 1 :]
        end = next(number for number, line in enumerate(said) if line.isdigit())
        assert said[end] == "1"
        assert said[end - 1].removeprefix("error: ").removeprefix("MODEL ").startswith("pipe.")


def test_a_name_of_250_bytes_is_no_reason_to_fail(workplace, photos):
    """Names of what is unfinished, or kept to go on from, are longer than the file's own."""
    name = "ü" * 118 + ".safetensors"
    assert len(os.fsencode(name)) == 248
    done = foldcam(
        workplace, "bank", "build", "own_network:make", "--images", photos, "--out", name
    )
    assert done.returncode == 0, done.stderr
    assert (workplace / name).is_file()
    assert [path.name for path in workplace.iterdir() if path.name.startswith(".")] == []
