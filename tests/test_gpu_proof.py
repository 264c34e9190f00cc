"""The steps that run on a GPU somewhere else: bounded, independent, counted."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROOF = ROOT / "tools" / "gpu_proof"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_proof_{name}", PROOF / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


run, pack = module("run"), module("pack")


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """run.sh and pieces as `make gpu-proof` writes them, of a checkout without wheels."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    (folder / "wheels").mkdir(parents=True)
    out.mkdir()
    with tarfile.open(folder / "repository.tar.gz", "w:gz") as archive:
        for name in ("src", "runtime", "export", "benchmarks", "calibrate"):
            archive.add(ROOT / name, name, filter=without_caches)
    (folder / "commit.txt").write_text("0123\n")
    (folder / "run.py").write_bytes((PROOF / "run.py").read_bytes())
    with tarfile.open(tmp_path / "proof.tar", "w") as archive:
        for path in folder.iterdir():
            archive.add(path, path.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "PIECE_BYTES", 1 << 20)
        parts = pack.split(tmp_path / "proof.tar", out)
    assert len(parts) > 1
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in parts]
    (out / "SHA256SUMS").write_text("".join(lines))
    (out / "run.sh").write_bytes((PROOF / "run.sh").read_bytes())
    return out


def without_caches(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in info.name or "/results" in info.name else info


def started(pieces: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(pieces / "run.sh"), *arguments],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_gpu_its_steps_are_left_out_and_counted(pieces: Path, tmp_path: Path) -> None:
    # No time for the steps that need none: what is tested is what is said of them.
    done = started(pieces, "--out", str(tmp_path / "results"), "--minutes", "0")
    (written,) = (tmp_path / "results").glob("*/proof.json")
    document = json.loads(written.read_text())
    if "gpu" in document["device"]:
        pytest.skip("this machine has a GPU")
    assert document["commit"] == "0123"
    outcomes = {step["name"]: (step["outcome"], step["reason"]) for step in document["steps"]}
    assert outcomes["doctor"] == ("failed", "not started: the minutes are over")
    assert outcomes["gpu"] == ("left out", "the driver finds no NVIDIA GPU here")
    assert document["counts"] == {"passed": 0, "failed": 2, "left out": len(outcomes) - 2}
    assert done.returncode == 1
    assert "(doctor, graphs)" in done.stdout


def test_pieces_that_were_damaged_on_the_way_are_refused(pieces: Path) -> None:
    with (pieces / "piece-02").open("r+b") as file:
        file.write(b"another")
    done = started(pieces)
    assert done.returncode == 3
    assert "damaged or incomplete" in done.stderr


def test_a_step_that_fails_or_takes_too_long_does_not_keep_the_next_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    now = run.time.monotonic()
    found = [run.Step("fails", [], 60), run.Step("hangs", [], 60), run.Step("works", [], 60)]
    monkeypatch.setattr(run, "LEAST_SECONDS", 0)
    child = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "child.wait()"
    )
    codes = ["import sys; print('it broke'); sys.exit(7)", child, "print(1)"]
    found[1].seconds = 5
    for step, code in zip(found, codes, strict=True):
        run.run_step(step, now + 100, dict(os.environ), tmp_path, tmp_path, ["-c", code])
    assert [step.outcome for step in found] == ["failed", "failed", "passed"]
    assert found[0].reason == "exit status 7: it broke"
    assert found[1].reason == "it ran longer than 5 s"
    # Nor does what it started itself go on beside the next.
    left = Path("/proc") / (tmp_path / "pid").read_text() / "cmdline"
    assert not (left.exists() and left.read_bytes())
    assert "it broke" in (tmp_path / "logs" / "fails.log").read_text()


def test_every_step_names_a_command_that_exists() -> None:
    """Its flags are those of today: `--help` of each command names them."""
    names = {}
    for step in run.steps("cuda"):
        if step.words[1] == "foldcam":
            names.setdefault(tuple(step.words[2:4]), set()).update(
                word for word in step.words[4:] if word.startswith("--")
            )
    assert set(names) == {("bench", "gate"), ("bench", "gpu")}
    for command, flags in names.items():
        done = subprocess.run(
            [sys.executable, "-m", "foldcam", *command, "--help"],
            env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert all(flag in done.stdout for flag in flags), command
    tests = next(step for step in run.steps("cuda") if step.name == "tests")
    assert all((ROOT / word).exists() for word in tests.words if word.startswith("tests/"))


def test_what_is_marked_gpu_lies_where_the_proof_looks() -> None:
    tests = next(step for step in run.steps("cuda") if step.name == "tests")
    looked = [ROOT / word for word in tests.words if word.startswith("tests/")]
    marked = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in path.read_text("utf-8") and path != Path(__file__)
    ]
    assert marked
    assert all(any(path == each or each in path.parents for each in looked) for path in marked)


def test_a_requirement_that_nothing_carries_is_found(tmp_path: Path) -> None:
    import zipfile

    for name, text in (
        ("a-1-py3-none-any.whl", "Requires-Dist: b\nRequires-Dist: c; extra == 'x'\n"),
        ("b_b-1-py3-none-any.whl", "Requires-Dist: numpy>=1\n"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as wheel:
            wheel.writestr("x.dist-info/METADATA", text)
    assert pack.unmet(tmp_path, {"numpy"}) == ["b"]
    assert pack.unmet(tmp_path, {"b"}) == ["numpy"]
