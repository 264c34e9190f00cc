"""What our processes load, and what they send to nobody.

Modules of the user's that are named like others' do no harm to either program, and no library
reports to its makers: names looked up and files left in HOME.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "json", "numpy", "onnx", "onnxruntime", "typing", "cv2", "typer", "click", "torch",
    "safetensors", "re", "os", "pathlib", "dataclasses", "inspect", "types", "enum", "random",
    "string", "tomllib", "tomli", "logging", "tempfile", "zipfile", "rich", "yaml", "pyarrow",
    "secrets", "socket", "email", "queue", "select", "copy", "ast", "sitecustomize",
    "usercustomize", "export", "runtime", "calibrate", "benchmarks", "foldcam",
)  # fmt: skip
# As our folders are called at the top of the repository, and as a user's own may be.
OURS = ("export.py", "runtime/__init__.py", "calibrate/__init__.py", "benchmarks/__init__.py")
VARIABLES = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
# Longer than the twelve seconds after which ONNX Runtime 1.32 looked up a host.
SECONDS = 15
EVERYTHING = f"""
import time
begun = time.monotonic()
import foldcam.benchmarks.studies.peers.graphs, calibrate, export, runtime
import numpy as np, onnx
from importlib import import_module, util

loaded = []
for name in (
    "cv2", "matplotlib.pyplot", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "paho.mqtt.client",
    "prometheus_client", "pyarrow.parquet", "pytorch_metric_learning", "ray", "safetensors",
    "skimage", "sklearn.cluster", "starlette.routing", "torch", "transformers", "uvicorn",
    "websockets",
):
    if util.find_spec(name.partition(".")[0]) is not None:
        import_module(name)
        loaded.append(name)
helper = onnx.helper
graph = helper.make_graph(
    [helper.make_node("Relu", ["x"], ["y"])], "g",
    [helper.make_tensor_value_info("x", 1, [4])], [helper.make_tensor_value_info("y", 1, [4])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = import_module("onnxruntime").InferenceSession(model.SerializeToString())
while time.monotonic() - begun < {SECONDS}:
    session.run(None, {{"x": np.ones(4, np.float32)}})
    time.sleep(0.05)
print(*loaded)
"""
PROGRAMS = {"foldcam": "foldcam.runtime.cli.foldcam", "runtime": "foldcam.runtime.cli.runtime"}


def environment(home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in VARIABLES and not name.startswith("XDG_") and name != "MPLCONFIGDIR"
    }
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def traced() -> list[str]:
    """`strace` for what is sent and connected; empty where it may not trace."""
    command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
    if shutil.which("strace") is None:
        return []
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else []


@dataclass
class _Loaded:
    """A process that has loaded everything: its folder, whether it is traced."""

    process: subprocess.Popen[str]
    folder: Path
    traced: bool


@pytest.fixture(scope="module", autouse=True)
def everything_loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Loaded | None]:
    """Started before the first test, because it only waits while the others run."""
    asking = "test_no_library_that_we_load_calls_home"
    if not any(item.name == asking for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "home").mkdir()
    command = traced()
    process = subprocess.Popen(
        [*command, *(["-o", str(folder / "trace")] if command else []),
         sys.executable, "-c", EVERYTHING],
        env=environment(folder / "home"), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield _Loaded(process, folder, bool(command))
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def shadowed(tmp_path):
    """A working directory full of modules and packages that leave a mark when they are run."""
    work = tmp_path / "work"
    work.mkdir()
    code = f"open({str(tmp_path / 'marks')!r}, 'a').write(__name__ + chr(10))\n"
    for number, name in enumerate(NAMES):
        if number % 3:
            (work / f"{name}.py").write_text(code)
        else:
            (work / name).mkdir()
            (work / name / "__init__.py").write_text(code)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, work / "plain.onnx")
    return work


def _call(program, work, *arguments):
    """As the console script does it, whose own folder is first on the import path."""
    script = work.parent / program
    script.write_text(f"import sys\nfrom {PROGRAMS[program]} import main\nsys.exit(main())\n")
    settings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FOLDCAM_MODEL")}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=work, env=settings, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    marks = work.parent / "marks"
    assert not marks.exists(), f"executed: {marks.read_text().split()}"
    return done


@pytest.mark.parametrize(
    ("program", "arguments", "status", "said"),
    [
        ("foldcam", ("--help",), 0, "export"),
        ("foldcam", ("export", "--help"), 0, "--images"),
        ("foldcam", ("check", "plain.onnx", "--target", "jetpack-6.2"), 0, "plain.onnx"),
        ("foldcam", ("export", "nothing:make", "--images", "."), 1, ""),
        ("runtime", ("--help",), 0, "inspect"),
        ("runtime", ("doctor",), None, "python"),
        ("runtime", ("inspect", "plain.onnx"), 1, "not a folded one"),
        ("runtime", ("run", "plain.onnx", "--file", "none.png"), 1, "none.png"),
    ],
)
def test_modules_in_the_working_directory_shadow_nothing(
    program, arguments, status, said, shadowed
):
    done = _call(program, shadowed, *arguments)
    assert status is None or done.returncode == status, done.stderr
    assert said in (done.stdout + done.stderr).lower()


def test_a_network_of_the_working_directory_still_loads_beside_them(shadowed, tmp_path):
    """Then the folder is on the import path, and last."""
    (shadowed / "mine.py").write_text(
        "import json, numpy, torch\nfrom torch import nn\n"
        "def make():\n    assert hasattr(json, 'dumps') and hasattr(numpy, 'array')\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(4, 4))\n"
    )
    import cv2

    for label in "ab":
        for number in range(2):
            folder = tmp_path / "photos" / label
            folder.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng([ord(label), number])
            picture = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
    done = _call(
        "foldcam", shadowed, "export", "mine:make", "--images", str(tmp_path / "photos"),
        "--size", "16", "--out", str(tmp_path / "model.onnx"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _run_beside_ours(tmp_path, lines):
    """Run a script in a folder that has modules named as our folders."""
    for name in OURS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('executed ' + __file__)\n")
    script = tmp_path / "mine.py"
    script.write_text(lines)
    return subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["foldcam", "runtime"])
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["export", "--help"]])
def test_a_project_may_have_modules_named_as_our_folders(program, arguments, tmp_path):
    """Even first on the import path, where a script's own folder and PYTHONPATH are."""
    done = _run_beside_ours(
        tmp_path,
        f"import foldcam, sys\nsys.argv = [{program!r}, *{arguments!r}]\n"
        f"from {PROGRAMS[program]} import main\nmain()\n",
    )
    known = arguments[0] == "--help" or (program == "runtime") == (arguments[0] == "run")
    assert done.returncode == (0 if known else 2), done.stderr
    assert "executed" not in done.stdout + done.stderr


def test_such_a_project_imports_what_it_needs(tmp_path):
    names = ("FoldedModel", "read_image", "export_model")
    done = _run_beside_ours(
        tmp_path, f"import foldcam\nfor name in {names!r}:\n    getattr(foldcam, name)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "executed" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "package", ["foldcam", "foldcam.runtime", "foldcam.export", "foldcam.calibrate"]
)
def test_reports_are_off_before_a_library_can_be_imported(package, tmp_path):
    code = f"import {package}, os; print(*(os.environ[name] for name in {VARIABLES!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "1 0 1\n"


def test_who_wants_to_report_may(tmp_path):
    code = "import foldcam, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0\n"


def test_no_library_that_we_load_calls_home(everything_loaded):
    printed, errors = everything_loaded.process.communicate(timeout=170)
    assert everything_loaded.process.returncode == 0, errors
    assert "onnxruntime" in printed.split()
    if everything_loaded.traced:
        calls = (everything_loaded.folder / "trace").read_text(errors="replace").splitlines()
        assert [line for line in calls if "AF_INET" in line or "htons(53)" in line] == []
    # Matplotlib keeps a list of this machine's fonts, for itself.
    home = everything_loaded.folder / "home"
    left = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".cache/matplotlib/")} == set()
