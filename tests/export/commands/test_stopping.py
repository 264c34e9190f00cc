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


# A process that loads torch once, and of which each program begins as a copy.
COPIES = """
import json, os, sys
from foldcam.export.commands import bank
from foldcam.export.exporting import bank_files
from foldcam.runtime.cli.entry import foldcam

for call in json.loads(sys.stdin.read()):
    child = os.fork()
    if not child:
        os.chdir(call["folder"])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        sys.path.insert(0, "code")
        os.environ.update(call["environment"])
        sys.argv = ["foldcam", *call["arguments"]]
        exec(call["first"])
        foldcam()
    status = os.waitpid(child, 0)[1]
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
"""
LONG = "ü" * 118 + ".safetensors"
SIGNALS = {number.name: number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}


@pytest.fixture
def workplace(tmp_path, photos):
    return _workplace(tmp_path)


def _workplace(folder):
    (folder / "code").mkdir()
    (folder / "code" / "own_network.py").write_text(NETWORK)
    return folder


@pytest.fixture(scope="module")
def ended(tmp_path_factory, shared_photos):
    """Name -> folder, what was in it before, status and standard error of `bank build`."""
    given = {
        **dict.fromkeys(SIGNALS, ("make", "bank.safetensors")),
        "SystemExit": ("leaves", "bank.safetensors"),
        "long name": ("make", LONG),
    }
    calls, folders, before = [], {}, {}
    for name, (network, out) in given.items():
        folders[name] = folder = _workplace(tmp_path_factory.mktemp("ended"))
        words = ["bank", "build", f"own_network:{network}", "--images", str(shared_photos)]
        calls.append({
            "folder": str(folder),
            "arguments": [*words, "--out", out],
            "first": STOP if name in SIGNALS else "",
            "environment": {"STOP_BY": str(int(SIGNALS.get(name, 0)))},
        })  # fmt: skip
        before[name] = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", COPIES],
        input=json.dumps(calls),
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    statuses = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: (folders[name], before[name], status, (folders[name] / "err").read_text())
        for name, status in zip(given, statuses, strict=True)
    }


@pytest.mark.parametrize("name", SIGNALS)
def test_a_command_that_is_stopped_leaves_nothing_unfinished(name, ended):
    workplace, before, status, stderr = ended[name]
    assert status == 128 + SIGNALS[name]
    last = stderr.splitlines()[-1]
    assert last.startswith(f"stopped by {name}")
    assert "Traceback" not in stderr
    left = [
        path
        for path in sorted(workplace.rglob("*"))
        if path not in before and "__pycache__" not in path.parts
    ]
    # What is kept to go on from is finished, as far as it goes.
    assert [path.name for path in left if "partial" in path.name] == []
    assert not (workplace / "bank.safetensors").exists()


def test_a_network_that_ends_the_program_is_an_error(ended):
    workplace, _, status, stderr = ended["SystemExit"]
    assert status == 1
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "SystemExit" in last
    assert not (workplace / "bank.safetensors").exists()


def test_a_name_of_250_bytes_is_no_reason_to_fail(ended):
    """Names of what is unfinished, or kept to go on from, are longer than the file's own."""
    workplace, _, status, stderr = ended["long name"]
    assert len(os.fsencode(LONG)) == 248
    assert status == 0, stderr
    assert (workplace / LONG).is_file()
    assert [path.name for path in workplace.iterdir() if path.name.startswith(".")] == []


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
