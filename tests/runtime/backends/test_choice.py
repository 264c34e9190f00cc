"""Which library runs a file, and what is said where it is not the wanted one."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.engine.manifest import manifest_path
from foldcam.runtime.system.errors import FoldcamError

IMAGES = np.full((2, 3, 8, 8), 0.5, np.float32)


@pytest.mark.parametrize("library", [None, "tensorrt", "auto"])
def test_engine_runs_in_tensorrt(gpu, with_engine, capsys, library):
    backend = open_backend(with_engine(), library=library)
    assert backend.name == "TensorRT 10.3.0"
    assert backend.run(IMAGES)["embedding"].tolist() == [[0.5, 0.5, 0.5]] * 2
    assert capsys.readouterr().err == ""
    backend.close()
    assert gpu.opened.clean()


def test_model_runs_by_the_engine_beside_it(gpu, with_engine):
    model = with_engine().with_suffix(".onnx")
    assert open_backend(model, library="tensorrt").name == "TensorRT 10.3.0"
    assert open_backend(model).name.startswith("onnxruntime")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut off"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"8", b"9")), "changed after"),
        (lambda path: manifest_path(path).unlink(), "has no manifest"),
    ],
)
def test_nothing_that_preflight_refuses_is_deserialised(gpu, with_engine, spoil, reason):
    engine = with_engine()
    spoil(engine)
    for path, library in ((engine, None), (engine.with_suffix(".onnx"), "tensorrt")):
        with pytest.raises(FoldcamError, match=reason):
            open_backend(path, library=library)
    assert gpu.opened.calls == []


def test_auto_steps_down_aloud_and_once(gpu, with_engine, capsys):
    engine = with_engine()
    gpu.here = None
    for path in (engine, engine.with_suffix(".onnx")):
        backend = open_backend(path, library="auto")
        assert backend.name.startswith("onnxruntime")
        assert backend.run(IMAGES)["neighbor"].shape == (2, 2)
        notes = capsys.readouterr().err.splitlines()
        assert notes[0].startswith("note: no TensorRT: ")
        assert notes[0].endswith("; using ONNX Runtime.")
        assert notes[1] == "note: this onnxruntime has no CUDA; running on the CPU."
        assert len(notes) == 2


def test_failure_while_opening_steps_down_too(gpu, with_engine, trt, capsys):
    trt.fail.add("context")
    trt.say = ["it burns"]
    assert open_backend(with_engine(), library="auto").name.startswith("onnxruntime")
    assert "it burns; using ONNX Runtime" in capsys.readouterr().err
    assert gpu.opened.contexts == 0


def test_nothing_but_auto_steps_down(gpu, with_engine):
    engine = with_engine()
    gpu.here = None
    with pytest.raises(FoldcamError, match="needs an NVIDIA GPU"):
        open_backend(engine)
    with pytest.raises(FoldcamError, match=r"cannot run in TensorRT.*no NVIDIA GPU"):
        open_backend(engine.with_suffix(".onnx"), library="tensorrt", build=True)


def test_auto_without_the_model_says_both(gpu, with_engine):
    engine = with_engine()
    engine.with_suffix(".onnx").unlink()
    gpu.here = None
    with pytest.raises(FoldcamError, match=r"needs an NVIDIA GPU.*no \.onnx beside"):
        open_backend(engine, library="auto")


def test_missing_engine_is_built_only_where_that_is_allowed(
    gpu, tiny_model, tmp_path, make_plan, monkeypatch, write_engine
):
    model = tmp_path / "tiny.onnx"
    model.write_bytes(tiny_model.read_bytes())

    def build(model, out, options, flavour, *, facts, line, trial):
        gpu.built.append(out.name)
        write_engine(model, make_plan(), "0.0.1")

    monkeypatch.setattr("foldcam.runtime.backends.tensorrt.building.build_engine", build)
    with pytest.raises(FoldcamError, match=r"has no engine.*--build, or run `runtime build"):
        open_backend(model, library="tensorrt")
    assert gpu.built == []
    for _ in range(2):
        assert open_backend(model, library="tensorrt", build=True).device.startswith("cuda")
    assert gpu.built == ["tiny.engine"]
    model.write_bytes(model.read_bytes() + b"\x12\x00")  # another producer name
    with pytest.raises(FoldcamError, match="the last build took 4 min 12 s"):
        open_backend(model, library="tensorrt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"library": "onnxruntime"}, "TensorRT engine, not for ONNX Runtime"),
        ({"provider": "cpu"}, "provider cpu is ONNX Runtime's"),
        ({"provider": "cuda", "library": "auto"}, "provider cuda is ONNX Runtime's"),
        ({"library": "abacus"}, "'abacus' is no backend"),
        ({"provider": "abacus"}, "'abacus' is no provider"),
    ],
)
def test_contradiction_is_named(options, message):
    with pytest.raises(FoldcamError, match=message):
        open_backend("birds.engine", **options)


def test_engine_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FoldcamError, match=r"gone\.engine does not exist: build it with"):
        open_backend(tmp_path / "gone.engine")
