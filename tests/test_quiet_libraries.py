"""No library that we load reports to its makers: names looked up and files left in HOME."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
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


def test_no_library_that_we_load_calls_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    trace = tmp_path / "trace"
    command = traced()
    done = subprocess.run(
        [*command, *(["-o", str(trace)] if command else []), sys.executable, "-c", EVERYTHING],
        env=environment(home), cwd=tmp_path, capture_output=True, text=True, timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stdout.split()
    if command:
        calls = trace.read_text(errors="replace").splitlines()
        assert [line for line in calls if "AF_INET" in line or "htons(53)" in line] == []
    # Matplotlib keeps a list of this machine's fonts, for itself.
    left = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".cache/matplotlib/")} == set()


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
