"""Real engines: TensorRT-RTX compiles without a GPU, and `runtime build` with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldcam.runtime.engine.builder import build_engine
from foldcam.runtime.engine.device import DeviceFacts, Gpu, Host
from foldcam.runtime.engine.flavours import find_flavour
from foldcam.runtime.engine.options import BuildOptions, profiles_for
from foldcam.runtime.engine.preflight import load_engine
from foldcam.runtime.system.errors import FoldcamError

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx: pip install foldcam[rtx]")

WORKSTATION = DeviceFacts(None, Host("x86_64", "Linux", ""), {})


def half(model):
    """The pooling in float16, between two casts."""
    nodes = {node.output[0]: node for node in model.graph.node}
    pool = nodes["A"]
    pool.input[0], pool.output[0] = "half_pixels", "half_A"
    index = list(model.graph.node).index(pool)
    model.graph.node.insert(
        index, helper.make_node("Cast", ["pixels"], ["half_pixels"], to=TensorProto.FLOAT16)
    )
    model.graph.node.insert(
        index + 2, helper.make_node("Cast", ["half_A"], ["A"], to=TensorProto.FLOAT)
    )


def quantized(model):
    """The image through int8 and back."""
    nodes = list(model.graph.node)
    index = next(at for at, node in enumerate(nodes) if node.output[0] == "pixels")
    nodes[index].output[0] = "raw"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / 127, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero_point"),
        ]
    )
    inputs = ["scale", "zero_point"]
    for at, node in enumerate(
        (
            helper.make_node("QuantizeLinear", ["raw", *inputs], ["small"]),
            helper.make_node("DequantizeLinear", ["small", *inputs], ["pixels"]),
        )
    ):
        model.graph.node.insert(index + 1 + at, node)


@pytest.fixture
def make_variant(make_model, contract_with, outcome_with):
    def make(kind):
        document = json.loads(contract_with().to_json())
        if kind == "fp16":
            metadata = json.dumps({**document, "precision": "fp16"})
            return make_model("fp16.onnx", change=half, metadata=metadata)
        if kind == "int8":
            return make_model("int8.onnx", change=quantized)
        if kind == "uint8":
            return make_model("uint8.onnx", contract=contract_with(input_type="uint8"))
        if kind == "continuous":
            return make_model("continuous.onnx", contract=outcome_with())
        return make_model("fp32.onnx")

    return make


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "uint8", "continuous"])
def test_every_kind_of_model_compiles_and_passes_preflight(kind, make_variant, rtx, tmp_path):
    model, out = make_variant(kind), tmp_path / "made" / f"{kind}.engine"
    options = BuildOptions(profiles_for([1, 4]))
    built = build_engine(model, out, options, rtx, facts=WORKSTATION)
    manifest = built.manifest
    assert manifest.precision == (kind if kind in ("fp16", "int8") else "fp32")
    assert manifest.inputs[0].dtype == ("uint8" if kind == "uint8" else "float32")
    assert len(manifest.outputs) == (6 if kind == "continuous" else 4)
    card = replace(
        WORKSTATION,
        gpu=Gpu("a card", "8.9", False, None),
        tensorrt={"tensorrt_rtx": rtx.version},
    )
    assert load_engine(out, card, model).plan == out.read_bytes()


def test_gpus_can_be_named(make_variant, rtx, tmp_path):
    options = BuildOptions(compute_capabilities=("8.6", "8.9"))
    model, out = make_variant("fp32"), tmp_path / "made.engine"
    built = build_engine(model, out, options, rtx, facts=WORKSTATION)
    assert str(built.manifest.target) == "8.6, 8.9"
    with pytest.raises(FoldcamError, match=r"does not build for compute capability 8.7: it knows"):
        build_engine(model, out, BuildOptions(compute_capabilities=("8.7",)), rtx)


def test_a_node_that_the_parser_refuses_is_named(make_model, rtx, tmp_path):
    def antialias(model):
        inputs = ["heatmap", "", "", "sizes"]
        options = {"mode": "linear", "antialias": 1}
        model.graph.node.append(
            helper.make_node("Resize", inputs, ["larger"], "resize_7", **options)
        )
        model.graph.initializer.append(
            numpy_helper.from_array(np.array([1, 1, 4, 4], np.int64), "sizes")
        )
        model.graph.output.append(helper.make_tensor_value_info("larger", TensorProto.FLOAT, None))

    model = make_model("bad.onnx", change=antialias)
    with pytest.raises(FoldcamError, match=r"is refused by the parser of .*'resize_7' \(Resize\)"):
        build_engine(model, tmp_path / "bad.engine", BuildOptions(), rtx)
    assert not (tmp_path / "bad.engine").exists()


def test_the_command_builds_and_inspect_reads_without_tensorrt(runtime, make_variant, rtx):
    model = make_variant("uint8")
    done = runtime("build", model, "--flavour", "rtx", "--batch", "1,2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    engine = model.with_suffix(".engine")
    assert report["engine"] == str(engine)
    assert report["bytes"] == engine.stat().st_size
    assert report["profiles"] == [
        {"min": 1, "opt": 1, "max": 1},
        {"min": 2, "opt": 2, "max": 2},
    ]
    assert "compiling" in done.stderr
    seen = runtime("inspect", engine)
    assert seen.returncode == 0
    for part in (f"TensorRT-RTX {rtx.version}, fp32", "image: uint8 [N, 8, 8, 3]", "1, 2", "blue"):
        assert part in seen.stdout
    assert "PROBLEM" not in seen.stdout


MANY = ",".join(map(str, range(1, 61)))


@pytest.fixture
def start_build(make_variant, child_environment):
    """Starts `runtime build` with many profiles, and waits until it compiles."""

    def start(model):
        process = subprocess.Popen(
            [sys.executable, "-m", "foldcam.runtime", "build", str(model), "--flavour", "rtx",
             "--batch", MANY],
            env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert "compiling" in process.stderr.readline()
        return process

    return start


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_nothing(number, wait, start_build, make_variant):
    model = make_variant("fp32")
    process = start_build(model)
    time.sleep(wait)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    assert [path.name for path in model.parent.iterdir() if "fp32." in path.name] == ["fp32.onnx"]


KILLED = """
import os, signal, sys
from pathlib import Path
def write_bytes(path, content):
    with path.open("wb") as stream:
        stream.write(content[:100])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = write_bytes
sys.argv = ["runtime", "build", {model!r}, "--flavour", "rtx"]
from foldcam.runtime.cli.runtime import main
main()
"""


def test_death_while_writing_leaves_no_engine_under_its_name(make_variant, child_environment):
    model = make_variant("fp32")
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(model=str(model))],
        env=child_environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert not model.with_suffix(".engine").exists()
    assert not model.with_suffix(".engine.json").exists()


def test_the_installed_one_is_found_by_auto_where_it_is_the_only_one(rtx):
    from importlib.util import find_spec

    if find_spec("tensorrt") is None:
        assert find_flavour("auto") == rtx
