"""What a model file from a stranger can do: nothing, in every command that takes a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.models.spec import LoadedModel
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]
SECRET = np.arange(64, dtype=np.float32).tobytes()
MARK = "from pathlib import Path\nPath({mark!r}).write_text(__name__)\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory, networks, preprocessing, shared_photos):
    """A working directory with a module that leaves a mark, a victim, a secret and a bank."""
    tmp_path = tmp_path_factory.mktemp("strangers")
    work = tmp_path / "work"
    work.mkdir()
    (work / "planted.py").write_text(
        MARK.format(mark=str(tmp_path / "mark")) + "def make():\n    raise SystemExit(7)\n"
    )
    (tmp_path / "victim").write_bytes(SECRET)
    loaded = LoadedModel(networks.make_tiny(), preprocessing, "tinynet:make", "")
    build_bank_file(
        loaded, load_dataset(shared_photos), tmp_path / "bank.safetensors",
        parse_objective("all-triplets"),
    )  # fmt: skip
    return work


def _named(folded_model, path, network, weights=""):
    """The folded model with other words about where it came from."""
    entry = next(e for e in folded_model.metadata_props if e.key == METADATA_KEY)
    contract = parse_contract(entry.value, "it")
    origin = replace(contract.origin, network=network, weights=weights)
    made = onnx.ModelProto()
    made.CopyFrom(folded_model)
    next(e for e in made.metadata_props if e.key == METADATA_KEY).value = replace(
        contract, origin=origin
    ).to_json()
    onnx.save(made, path)


def _elsewhere(model, path, place):
    """One weight of the model said to lie in another file."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensor = next(t for t in made.graph.initializer if t.data_type == TensorProto.FLOAT and t.dims)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(made.SerializeToString())


class _Writes(torch.nn.Module):
    def forward(self, image):
        held = torch.ones(64)
        held.copy_(torch.zeros(64))
        return image.mean((2, 3)) + held.sum()


def _writing_program(path, victim, networks):
    """A program whose graph opens a file, and writes into it when it runs."""
    torch.export.save(torch.export.export(_Writes(), (torch.zeros(2, 3, *networks.SIZE),)), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in entries if name.endswith("models/model.json")]
    document = json.loads(entries[name])
    nodes = document["graph_module"]["graph"]["nodes"]
    (made,) = [node for node in nodes if node["target"] == "torch.ops.aten.ones.default"]
    made["target"] = "torch.ops.aten.from_file.default"
    arguments = {
        "filename": {"as_string": str(victim)}, "shared": {"as_bool": True}, "size": {"as_int": 64},
    }  # fmt: skip
    made["inputs"] = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    entries[name] = json.dumps(document).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)


def test_such_a_program_would_write(tmp_path, networks):
    """Else the test below could not fail."""
    (tmp_path / "victim").write_bytes(SECRET)
    _writing_program(tmp_path / "evil.pt2", tmp_path / "victim", networks)
    program = torch.export.load(tmp_path / "evil.pt2").module(check_guards=False)
    program(torch.zeros(2, 3, *networks.SIZE))
    assert (tmp_path / "victim").read_bytes() == bytes(256)


NAMED = ("abort", "module", "link")
ELSEWHERE = ("a/../../victim", "deep/victim", "out.bin")


@pytest.fixture(scope="module")
def calls(home, folded_file, onnx_files, shared_photos, networks):
    """`(command, file) -> (status, standard error)` of every command with every file.

    One process runs them all, since each would load torch again.
    """
    folded_model = onnx.load(folded_file)
    (home / "linked.pt2").symlink_to(home / "real.pt2")
    _writing_program(home / "real.pt2", home.parent / "victim", networks)
    (home / "weights.safetensors").symlink_to(home.parent / "victim")
    _named(folded_model, home / "abort.onnx", "os:abort")
    _named(folded_model, home / "module.onnx", "planted:make", "weights.safetensors")
    _named(folded_model, home / "link.onnx", "linked.pt2")

    _writing_program(home / "evil.pt2", home.parent / "victim", networks)

    (home / "out.bin").symlink_to(home.parent / "victim")
    (home / "deep").symlink_to(home.parent)
    (home / "a").mkdir()
    for number, place in enumerate(ELSEWHERE):
        model = folded_model if number % 2 else onnx_files.plain()
        _elsewhere(model, home / f"m{number}.onnx", place)

    names = [*(f"{name}.onnx" for name in NAMED), "evil.pt2"]
    names += [f"m{number}.onnx" for number in range(len(ELSEWHERE))]
    return _run(home, shared_photos, *(home / name for name in names))


def _run(home, photos, *files):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/export/strangers.py"), str(photos),
         str(home.parent / "bank.safetensors"), *map(str, files)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
             "HOME": str(home.parent / "home"), "FOLDCAM_MODEL": ""},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    calls = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(calls) == 22 * len(files)
    for line, name, status, err in calls:
        assert status in (0, 1, 2, 3), (line, name, status, err)
        assert "Traceback" not in err, (line, name, err)
    assert not (home.parent / "mark").exists(), "the planted module was imported"
    assert (home.parent / "victim").read_bytes() == SECRET
    return {(line.split()[0], name): (status, err) for line, name, status, err in calls}


def test_metadata_that_name_code_or_a_link_run_nothing(calls):
    for name in NAMED:
        assert calls["verify", f"{name}.onnx"][0] == 0
        assert calls["run", f"{name}.onnx"][0] == 0


def test_a_program_file_that_writes_files_is_refused(calls):
    status, err = calls["export", "evil.pt2"]
    assert status == 1
    assert "calls 'torch.ops.aten.from_file.default', which is not an operator" in err


def test_external_data_elsewhere_is_refused_before_a_library_opens_the_file(calls):
    for number in range(len(ELSEWHERE)):
        for command, name in calls:
            if name != f"m{number}.onnx":
                continue
            status, err = calls[command, name]
            assert status in (1, 2), (command, name)
            if command not in ("bank", "train", "build", "doctor", "self-test", "gate"):
                assert "outside of the file's folder" in err, (command, name, err)
