"""An engine is shown the probe pictures before it is written: right, wrong, or not to be run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.backends.onnxruntime import OnnxRuntimeBackend
from foldcam.runtime.backends.tensorrt import building
from foldcam.runtime.backends.tensorrt.building import build_tried_engine
from foldcam.runtime.cli.runtime import app
from foldcam.runtime.engine.canary.check import WrongAnswersError
from foldcam.runtime.engine.manifest import manifest_path
from foldcam.runtime.engine.options import BuildOptions
from foldcam.runtime.measurement.comparison.fastest_engine import FastestOptions, build_fastest
from foldcam.runtime.system.command import run_app
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "foldcam" / "probes"


class Engine(OnnxRuntimeBackend):
    """ONNX Runtime with a model's file in place of an engine."""

    def __init__(self, *given):
        super().__init__(*given)
        self.name, self.device = "TensorRT 10.3.0", "cuda (Orin)"

    def close(self):
        self.closed = True
        super().close()


@pytest.fixture
def build(make_probed, make_flavour, orin, tmp_path):
    """`build(change)`: builds a model whose engine computes what `change` makes of its graph."""

    def run(change=None, model=None, facts=orin, **options):
        model = model or make_probed("tiny.onnx")
        engine = make_probed("engine.onnx", change=change)
        opened = []

        def run_plan(plan, flavour):
            assert plan.data
            opened.append(Engine(engine, "cpu", 1))
            return opened[-1]

        run.out = tmp_path / "out" / "tiny.engine"
        run.opened = opened
        options.setdefault("run", run_plan)
        return build_tried_engine(
            model, run.out, BuildOptions(), make_flavour("10.3.0"), facts=facts, **options
        )

    return run


def test_an_engine_that_answers_rightly_is_written_and_remembered(build, cache):
    built = build()
    assert build.out.is_file()
    assert (built.notes, built.accepted_wrong) == ([], None)
    assert build.opened[0].closed
    assert json.loads(next(cache.glob("*.json")).read_text())["library"] == "TensorRT 10.3.0"


@pytest.mark.parametrize("fault", ["wrong_network", "wrong_map"])
def test_an_engine_that_is_wrong_in_one_layer_is_not_written(fault, build, request, cache):
    with pytest.raises(WrongAnswersError) as caught:
        build(request.getfixturevalue(fault))
    said = str(caught.value)
    assert said.startswith(f"{build.out} answers wrongly in TensorRT 10.3.0 on cuda (Orin) ")
    assert "another TensorRT, or run the .onnx with --backend onnxruntime" in said
    assert list(build.out.parent.iterdir()) == []
    assert build.opened[0].closed
    assert not list(cache.glob("*.json"))


def test_it_is_written_with_a_warning_where_that_is_accepted(build, wrong_map, capsys, cache):
    built = build(wrong_map, accept_wrong=True)
    assert build.out.is_file()
    assert "map heatmap agrees" in built.accepted_wrong
    assert capsys.readouterr().err.startswith("WARNING: ")
    assert not list(cache.glob("*.json"))


def test_an_engine_that_cannot_run_here_is_written_with_a_note(build, orin, wrong_map):
    built = build(wrong_map, facts=replace(orin, gpu=None))
    assert build.opened == []
    assert built.notes == [
        "no probe pictures were shown to the engine, which cannot run on this machine: that is "
        "done where it is first opened"
    ]

    def fails(plan, flavour):
        raise FoldcamError("pycuda is missing.")

    assert build(run=fails).notes == [
        "the engine could not be shown the probe pictures: pycuda is missing."
    ]
    assert build.out.is_file()


def test_a_model_without_probes_is_built_and_told_how_to_get_them(build, tiny_model):
    built = build(model=tiny_model)
    assert build.opened == []
    assert f"foldcam probes {tiny_model} adds some" in built.notes[0]


@pytest.fixture
def command(make_flavour, orin, monkeypatch, make_probed, capsys):
    """`command("model.onnx", ...)`: `runtime build` in this process, with a wrong engine."""

    def run(change, *arguments):
        engine = make_probed("engine.onnx", change=change)
        monkeypatch.setattr(building, "find_gpu", lambda: orin.gpu)
        monkeypatch.setattr(building, "find_host", lambda: orin.host)
        monkeypatch.setattr(
            "foldcam.runtime.engine.flavours.find_flavour", lambda wanted: make_flavour("10.3.0")
        )
        default = building.build_tried_engine.__kwdefaults__
        monkeypatch.setitem(default, "run", lambda plan, flavour: Engine(engine, "cpu", 1))
        monkeypatch.setattr(sys, "argv", ["runtime", "build", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_app(app, "runtime")
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_command_refuses_in_one_sentence(command, make_probed, wrong_network):
    model = make_probed("tiny.onnx")
    status, out, err = command(wrong_network, model)
    assert (status, out) == (1, "")
    sentence = err.splitlines()[-1]
    assert "answers wrongly in TensorRT 10.3.0" in sentence
    assert not model.with_suffix(".engine").exists()


def test_the_command_shouts_what_it_accepts(command, make_probed, wrong_map):
    model = make_probed("tiny.onnx")
    status, out, err = command(wrong_map, model, "--accept-wrong", "--json")
    assert status == 0
    assert "WARNING: " in err
    assert "answers wrongly" in json.loads(out)["accepted_wrong"]
    _, out, _ = command(wrong_map, model, "--accept-wrong")
    assert "WARNING" in out
    assert manifest_path(model.with_suffix(".engine")).is_file()
    status, out, _ = command(None, model, "--json")
    assert (status, json.loads(out)["accepted_wrong"]) == (0, None)


def test_a_wrong_candidate_is_no_choice_of_precision_auto(
    make_probed, make_model, contract_with, make_flavour, orin, photo, tmp_path, wrong_map
):
    for number in range(9):
        photo(f"red/{number}.png", (250, 30 + number, 60))
    model = make_model("tiny.onnx")
    half = make_probed("tiny.fp16.onnx", contract=contract_with(precision="fp16"))
    engine = make_probed("engine.onnx", change=wrong_map, precision="fp16")

    def build(path, out, options, flavour, line):
        return build_tried_engine(
            path, out, options, flavour, facts=orin, line=line,
            run=lambda plan, flavour: Engine(engine, "cpu", 1),
        )  # fmt: skip

    options = FastestOptions(model, (half,), tmp_path / "photos", tmp_path / "o.engine",
                             BuildOptions(), rounds=3)  # fmt: skip
    with pytest.raises(FoldcamError, match=r"No candidate can be built here.*answers wrongly"):
        build_fastest(
            options, make_flavour("10.3.0", half=True), build=build,
            engines=lambda engine, path: open_backend(path, "cpu"),
        )  # fmt: skip
