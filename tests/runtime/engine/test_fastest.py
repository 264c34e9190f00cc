"""`runtime build --precision auto` with a recording TensorRT: what is built, judged and kept.

ONNX Runtime stands in for the engines, which nothing here can run.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.schema import Calibration
from foldcam.runtime.engine.builder import Built, build_engine
from foldcam.runtime.engine.manifest import manifest_path
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.engine.preflight import load_engine
from foldcam.runtime.measurement.comparison.fastest_engine import (
    FastestOptions,
    build_fastest,
    candidates_beside,
    fastest_text,
)
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import digest_of

INT8 = Calibration("k" * 64, "r" * 64, 0, "tensorrt")


class Slowed:
    """A backend that takes its time."""

    def __init__(self, backend, seconds):
        self._backend, self._seconds = backend, seconds
        self.name, self.device, self.contract = "tensorrt 10.3.0", "cuda", backend.contract
        self.closed = False

    def run(self, images):
        time.sleep(self._seconds)
        return self._backend.run(images)

    def close(self):
        self.closed = True


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(photo, tmp_path):
    for label, color in {"red": (250, 30, 60), "green": (20, 220, 40)}.items():
        for number in range(5):
            photo(f"{label}/{number}.png", (color[0], color[1] + number, color[2]))
    return tmp_path / "photos"


def mixed_up(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "bank_t")
    values = np.ascontiguousarray(numpy_helper.to_array(tensor)[:, ::-1])
    tensor.CopyFrom(numpy_helper.from_array(values, "bank_t"))


@pytest.fixture
def auto(make_model, contract_with, make_flavour, orin, photos, tmp_path):
    """`auto(fp16=0.002, int8=0.0, spoilt="int8")`: seconds of each, and which one errs."""

    def run(fp16=0.002, int8=0.0, spoilt=(), fails=(), target="tensorrt"):
        model = make_model("tiny.onnx")
        paths = {}
        for name, contract in (
            ("fp16", contract_with(precision="fp16")),
            ("int8", contract_with(calibration=Calibration("k", "r", 0, target))),
        ):
            change = mixed_up if name in spoilt else None
            paths[name] = make_model(f"tiny.{name}.onnx", contract=contract, change=change)
        seconds = {paths["fp16"]: fp16, paths["int8"]: int8}
        opened = []

        def build(path, out, options, flavour, line) -> Built:
            if any(path == paths[name] for name in fails):
                raise FoldcamError("it cannot be compiled.")
            return build_engine(path, out, options, flavour, facts=orin, line=line)

        def engines(engine: Path, path: Path):
            # What is opened was built from that very file.
            load_engine(engine, orin, path)
            opened.append(Slowed(open_backend(path, "cpu", 1), seconds[path]))
            return opened[-1]

        out = tmp_path / "out" / "tiny.engine"
        found = candidates_beside(model)
        options = FastestOptions(model, found, photos, out, BuildOptions(), rounds=7)
        flavour = make_flavour("10.3.0", half=True, quantized=True)
        document = build_fastest(options, flavour, build=build, engines=engines)
        assert document["sha256"] == digest_of(document["report"])
        assert all(each.closed for each in opened)
        return document, out, paths

    return run


def test_the_fastest_that_passes_is_kept_with_its_manifest(auto, orin):
    document, out, paths = auto()
    report = document["report"]
    assert (report["passed"], report["chosen"]) == (True, "tiny.int8.onnx")
    assert load_engine(out, orin, paths["int8"]).manifest.precision == "int8"
    times = [each["milliseconds"] for each in report["candidates"]]
    assert times[0] > times[1] > 0
    assert sorted(path.name for path in out.parent.iterdir()) == [
        out.name, manifest_path(out).name
    ]  # fmt: skip
    assert "tiny.int8.onnx" in fastest_text(document)


def test_the_slower_is_kept_where_the_faster_fails_the_gate(auto, orin):
    document, out, paths = auto(spoilt=("int8",))
    report = document["report"]
    assert report["chosen"] == "tiny.fp16.onnx"
    assert "recall@1 falls" in report["candidates"][1]["failures"][0]
    assert load_engine(out, orin, paths["fp16"])


def test_where_none_passes_nothing_is_kept(auto):
    document, out, _ = auto(spoilt=("fp16", "int8"))
    assert (document["report"]["passed"], document["report"]["chosen"]) == (False, None)
    assert list(out.parent.iterdir()) == []


def test_one_that_cannot_be_built_does_not_keep_the_other_from_being_used(auto):
    document, _, _ = auto(fails=("int8",))
    report = document["report"]
    assert report["chosen"] == "tiny.fp16.onnx"
    assert report["candidates"][1]["problem"] == "it cannot be compiled."
    document, _, _ = auto(target="cpu")
    assert "--target tensorrt" in document["report"]["candidates"][1]["problem"]
    with pytest.raises(FoldcamError, match="No candidate can be built"):
        auto(fails=("fp16", "int8"))


def test_without_a_gpu_or_candidates_it_is_one_sentence(runtime, make_model, contract_with, photos):
    model = make_model("tiny.onnx")
    done = runtime("build", model, "--precision", "auto", "--images", photos)
    assert (done.returncode, "--candidate" in done.stderr) == (1, True)
    make_model("tiny.int8.onnx", contract=contract_with(calibration=INT8))
    done = runtime("build", model, "--precision", "auto", "--images", photos)
    assert done.returncode == 1
    assert "GPU" in done.stderr
    assert runtime("build", model, "--precision", "auto").returncode == 2
    assert runtime("build", model, "--images", photos).returncode == 2


def test_a_candidate_of_another_network_is_refused(make_model, contract_with, make_flavour, photos):
    model = make_model("tiny.onnx")
    other = make_model("other.onnx", contract=contract_with(layer="other"))
    chosen = FastestOptions(model, (other,), photos, model.with_suffix(".engine"), BuildOptions())
    with pytest.raises(FoldcamError, match="another layer"):
        build_fastest(chosen, make_flavour("10.3.0"))
