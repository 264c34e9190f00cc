"""Every program in examples/ runs, and docs/extending.md names each of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "extending.md"


def run(*arguments: object, folder: Path) -> str:
    """What a program of Python prints, run in an empty folder."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the example of an objective has run."""
    folder = tmp_path_factory.mktemp("made")
    assert run(EXAMPLES / "objective.py", folder, folder=folder) == (
        "objective nearest-rival, 12 rows\n"
    )
    return folder


def test_the_sink_counts_answers(made, tmp_path):
    printed = run(
        "-m", "foldcam.runtime", "run", made / "model.onnx", "--file", made / "photos",
        "--sink", "sink:make", folder=tmp_path,
    )  # fmt: skip
    counts = dict(line.split() for line in (tmp_path / "counts.txt").read_text().splitlines())
    assert sum(map(int, counts.values())) == 12
    assert "wrote counts.txt" in printed


def test_the_source_gives_every_frame(made, tmp_path):
    np.save(tmp_path / "frames.npy", np.full((5, 40, 60, 3), (220, 40, 30), np.uint8))
    printed = run(EXAMPLES / "source.py", made / "model.onnx", "frames.npy", folder=tmp_path)
    assert printed.endswith("5 frames\n")


def test_the_source_refuses_what_it_cannot_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import source

    from foldcam import FoldcamError

    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "grey.npy", np.zeros((2, 4, 4), np.uint8))
    for name, message in (("text", "cannot be read"), ("grey", "holds no uint8 array")):
        with pytest.raises(FoldcamError, match=message):
            source.ArraySource(tmp_path / f"{name}.npy")


def test_the_backend_answers_as_onnx_runtime_does(made):
    photo = made / "photos" / "red" / "0.png"
    printed = run(EXAMPLES / "backend.py", made / "model.onnx", photo, folder=made)
    found = re.fullmatch(r"red; the embedding differs by (\S+)\n", printed)
    assert found is not None, printed
    assert float(found[1]) < 1e-5


def test_the_rule_finds_the_long_stride(made):
    printed = run(EXAMPLES / "tensorrt_rule.py", made / "model.onnx", folder=made)
    assert printed.count("\n") == 1
    assert "has strides [4, 4], and skips pixels on TensorRT 10.3; use two" in printed


def test_the_page_names_every_example_and_only_files_that_exist():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"examples/(\w+\.py)", text))
    assert named == {path.name for path in EXAMPLES.glob("*.py")}
    for path in re.findall(r"`((?:runtime|export|calibrate|tests|docs|tools)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_a_sink_touches_the_three_files_that_the_page_lists():
    """The webhook was added by the page's steps, and nothing else knows of it."""
    section = PAGE.read_text(encoding="utf-8").partition("## A sink\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\d\. `([\w/]+\.py)`", section, re.MULTILINE))
    knowing = {
        str(path.relative_to(ROOT))
        for package in ("runtime", "export", "calibrate", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if "webhook" in path.read_text(encoding="utf-8").lower()
    }
    assert knowing == listed
    assert len(listed) == 3
