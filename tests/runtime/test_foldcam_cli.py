"""`foldcam` gathers commands from entry points, whatever is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foldcam.runtime.cli.foldcam import gather
from foldcam.runtime.system.errors import FoldcamError

PART = '''
import typer
app = typer.Typer()

@app.command()
def fold(name: str) -> None:
    """Fold it."""
    print("folded", name)

@app.command("verify")
def check() -> None:
    print("verified")

@app.command()
def needs() -> None:
    import torch_that_is_not_there
'''


@pytest.fixture
def points(tmp_path, monkeypatch):
    (tmp_path / "part_a.py").write_text(PART)
    (tmp_path / "part_b.py").write_text("import onnxscript_x\n")
    (tmp_path / "part_c.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield lambda *letters: [
        EntryPoint(f"part-{letter}", f"part_{letter}:app", "foldcam.commands") for letter in letters
    ]
    for name in ("part_a", "part_b", "part_c"):
        sys.modules.pop(name, None)


def test_commands_stand_side_by_side(points):
    runner = CliRunner()
    app = gather(points("a"))
    assert runner.invoke(app, ["fold", "x"]).output == "folded x\n"
    assert runner.invoke(app, ["verify"]).output == "verified\n"
    assert "Fold it." in runner.invoke(app, ["--help"]).output


def test_missing_extra_is_named_and_harms_nothing_else(points):
    runner = CliRunner()
    app = gather(points("c", "a"))
    assert runner.invoke(app, ["verify"]).output == "verified\n"
    failed = runner.invoke(app, ["part-c", "--images", "x", "more"])
    assert isinstance(failed.exception, FoldcamError)
    assert "foldcam[export]" in str(failed.exception)
    assert "Not available" in runner.invoke(app, ["--help"]).output


def test_bug_in_a_package_is_not_hidden(points):
    with pytest.raises(ModuleNotFoundError, match="onnxscript_x"):
        gather(points("b"))


def test_no_package_at_all():
    with pytest.raises(FoldcamError, match="not installed"):
        gather([])


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("raise FoldcamError('a\\x1bb')", 1, "error: a\\x1bb\n"),
        ("raise MemoryError", 1, "error: Not enough memory"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise ImportError('x.so: half initialized') from KeyboardInterrupt()", 130, ""),
        ("raise FoldcamError('the disk is full') from KeyboardInterrupt()", 1, "error: the disk"),
        ("raise BrokenPipeError(32, 'x')", 1, ""),
        ("raise ModuleNotFoundError('x', name='torch.nn')", 1, "foldcam[export]"),
        ("raise ImportError('libGL.so.1: cannot open shared object file')", 1, "headless"),
        ("open('none')", 1, "error: none: No such file"),
        ("raise typer.Exit(3)", 3, ""),
        ("print('x' * 10)", 0, ""),
        ("raise RuntimeError('a bug')", 1, "Traceback"),
    ],
)
def test_how_programs_end(tmp_path, child_environment, body, status, said):
    script = tmp_path / "program.py"
    script.write_text(
        "import typer\nfrom foldcam.runtime.system.errors import FoldcamError\n"
        "from foldcam.runtime.system.command import run_app\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        f"@app.command()\ndef go() -> None:\n    {body}\n"
        "run_app(app, 'program')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=child_environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    if said != "Traceback":
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_standard_output_is_reported(child_environment, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "foldcam.runtime", "--version"],
            env=child_environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: Standard output cannot be written: No space left on device.\n"
