"""`runtime build` and `runtime inspect` of an engine, as the user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def test_help_shows_an_example_and_imports_no_tensorrt(runtime, child_environment):
    assert "Example: runtime build birds.onnx --batch 1,4" in runtime("build", "--help").stdout
    code = (
        "import sys; sys.argv = ['runtime', 'build', '--help']\n"
        "from foldcam.runtime.cli.runtime import app\n"
        "from foldcam.runtime.system.command import run_app\n"
        "try:\n    run_app(app, 'runtime')\nexcept SystemExit:\n    pass\n"
        "assert not {'tensorrt', 'tensorrt_rtx', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch", "0"),
        ("--batch", "x"),
        ("--batch", "1", "--max-batch", "2"),
        ("--min-batch", "2"),
        ("--min-batch", "3", "--max-batch", "2"),
        ("--compute-capability", "orin"),
        ("--flavour", "openvino"),
        ("--workspace", "0"),
    ],
)
def test_wrong_usage_is_status_2(arguments, runtime, tiny_model):
    done = runtime("build", tiny_model, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_what_is_no_folded_model_is_one_sentence(runtime, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    for name, words in (("x.onnx", "is not an ONNX file"), ("none.onnx", "does not exist")):
        done = runtime("build", tmp_path / name)
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_inspect_prints_manifest_tensors_and_size(runtime, make_engine):
    engine = make_engine(dla_fallback=("topk", "mean"))
    done = runtime("inspect", engine)
    assert done.returncode == 0, done.stderr
    for part in (
        "TensorRT 10.3.0, fp32, weak types", "compute capability 8.7", "Orin",
        "Linux aarch64, Jetson Linux 36.4.3", "image: float32 [N, 3, 8, 8]",
        "neighbor: int32 [N, 2]", "tiny.onnx", "4 min 12 s", "0.0 MB", "blue (1)",
    ):  # fmt: skip
        assert part in done.stdout
    report = json.loads(runtime("inspect", engine, "--json").stdout)
    assert (report["bytes"], report["problem"], report["label_count"]) == (1024, None, 3)
    assert report["contract"]["bank"]["rows"] == 3
    assert report["platform"] == {"machine": "aarch64", "system": "Linux", "l4t": "36.4.3"}


def test_inspect_of_an_engine_says_how_its_bank_is_stored(runtime, make_engine):
    plain = make_engine()
    metadata = json.loads(plain.with_name("tiny.engine.json").read_text())["metadata"]
    metadata["bank"]["storage"] = {
        "search": "exhaustive", "lists": 0, "list_rows": 0, "probes": 0, "rank": 0,
        "embeddings": "int8", "grad_weights": "float16", "sha256": "ab" * 32,
    }  # fmt: skip
    engine = make_engine(metadata=metadata)
    done = runtime("inspect", engine)
    assert done.returncode == 0, done.stderr
    assert "all rows compared; embeddings int8, grad-weights float16" in done.stdout


def test_inspect_says_that_a_plan_was_changed(runtime, make_engine):
    engine = make_engine()
    engine.write_bytes(b"x" * 1024)
    done = runtime("inspect", engine)
    assert done.returncode == 0
    assert "PROBLEM" in done.stdout
    assert "was changed after it was built" in done.stdout


def test_inspect_of_an_engine_without_manifest_is_one_sentence(runtime, make_engine):
    engine = make_engine()
    os.remove(f"{engine}.json")  # noqa: PTH107
    done = runtime("inspect", engine)
    assert done.returncode == 1
    assert "has no manifest" in done.stderr
    missing = runtime("inspect", engine.with_name("none.engine"))
    assert missing.returncode == 1
    assert "does not exist" in missing.stderr
