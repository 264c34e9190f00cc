"""Models in ONNX Runtime are shown their probe pictures where they are first opened."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.backends.onnxruntime import OnnxRuntimeBackend
from foldcam.runtime.cli.machine import diagnose, diagnosis_text
from foldcam.runtime.contract.canary import packed
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.engine.canary.check import WrongAnswersError, accepted_wrong_of
from foldcam.runtime.measurement.bench.report import text
from foldcam.runtime.measurement.bench.run import BenchOptions, run_bench
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes of ONNX Runtime."""
    counted = []
    run = OnnxRuntimeBackend.run
    monkeypatch.setattr(
        OnnxRuntimeBackend, "run", lambda self, images: counted.append(1) or run(self, images)
    )
    return counted


def test_a_right_model_is_asked_once_on_a_machine(make_probed, passes, cache, capsys):
    model = make_probed()
    passes.clear()
    for _ in range(3):
        open_backend(model, "cpu").close()
    assert len(passes) == 3  # one for each picture
    (entry,) = cache.glob("*.json")
    about = json.loads(entry.read_text())
    assert (about["precision"], about["failures"]) == ("fp32", [])
    assert about["library"].startswith("onnxruntime")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("fault", ["wrong_network", "wrong_map"])
def test_a_model_that_is_wrong_in_one_layer_is_refused_each_time(
    kind, fault, make_probed, contract_with, request, cache
):
    change = request.getfixturevalue(fault)
    model = make_probed(contract=contract_with(input_type=kind), change=change)
    for _ in range(2):
        with pytest.raises(WrongAnswersError) as caught:
            open_backend(model, "cpu")
    said = str(caught.value)
    assert said.startswith(f"{model} answers wrongly in onnxruntime ")
    assert "on cpu (3 probe pictures in fp32): " in said
    assert "--accept-wrong" in said
    assert said.endswith(".")
    assert ("below 0.99" if fault == "wrong_network" else "map heatmap agrees") in said
    assert not list(cache.glob("*.json"))


def test_the_remedy_is_that_of_the_precision(make_probed, wrong_map):
    for precision, words in (("fp16", "--precision fp32"), ("int8", "--keep-float")):
        model = make_probed(f"{precision}.onnx", precision=precision, change=wrong_map)
        with pytest.raises(WrongAnswersError, match=words):
            open_backend(model, "cpu")


def test_wrong_answers_are_accepted_aloud_and_never_remembered(
    make_probed, wrong_map, capsys, cache
):
    model = make_probed(change=wrong_map)
    for _ in range(2):
        backend = open_backend(model, "cpu", accept_wrong=True)
        assert "answers wrongly" in accepted_wrong_of(backend)
        said = capsys.readouterr().err
        assert said.startswith("WARNING: ")
        assert said.endswith("accepted by --accept-wrong.\n")
    assert not list(cache.glob("*.json"))
    with FoldedModel.load(model, "cpu", accept_wrong=True) as folded:
        assert "answers wrongly" in folded.accepted_wrong


def test_another_file_or_library_is_asked_again(make_probed, passes, monkeypatch):
    model = make_probed()
    passes.clear()
    open_backend(model, "cpu").close()
    model.write_bytes(model.read_bytes() + b"\x12\x00")  # another producer name
    open_backend(model, "cpu").close()
    assert len(passes) == 6
    monkeypatch.setattr("onnxruntime.__version__", f"{onnxruntime.__version__}.1")
    open_backend(model, "cpu").close()
    assert len(passes) == 9


def test_a_cache_that_cannot_be_written_costs_only_time(make_probed, passes, cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    model = make_probed()
    passes.clear()
    for _ in range(2):
        open_backend(model, "cpu").close()
    assert len(passes) == 6


def test_a_file_without_probes_runs_as_before(tiny_model, passes, cache, capsys):
    open_backend(tiny_model, "cpu").close()
    assert passes == []
    assert not list(cache.glob("*.json"))
    assert capsys.readouterr().err == ""


def test_probes_of_a_later_foldcam_are_left_aside(make_probed, make_model, wrong_map):
    path = make_probed()
    document = json.loads(read_contract(path).to_json())
    document["canary"] = {"version": 2, "something": "else"}
    later = make_model("later.onnx", metadata=json.dumps(document), change=wrong_map)
    assert read_contract(later).canary is None
    open_backend(later, "cpu").close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(answers=[]), "answers has 0 values where at least 1"),
        (lambda c: c.update(answers=c["answers"] * 3), "9 values where at most 8"),
        (lambda c: c.update(precision="fp8"), "precision"),
        (lambda c: c["answers"][0].update(embedding="?"), "no packed numbers"),
        (lambda c: c["answers"][0].update(seed=-1), "seed"),
        (lambda c: c["answers"][0]["maps"].update(heatmap=4), "string"),
        (lambda c: c["answers"][0]["numbers"].update(similarity="x"), "number"),
        (lambda c: c["answers"][0].update(seed=1 << 20), "seed"),
        (lambda c: c["answers"][0].update(embedding=packed(np.ones(4))), "4 numbers where 3"),
        (lambda c: c["answers"][0]["maps"].update(heatmap=packed(np.ones(3))), "3 numbers where 4"),
        (lambda c: c["answers"][0].pop("numbers"), "is missing"),
        (lambda c: c["answers"][0].update(length=1e308 * 10), "finite|JSON"),
    ],
)
def test_what_is_no_canary_is_refused_by_name(change, words, make_probed, make_model):
    document = json.loads(read_contract(make_probed()).to_json())
    change(document["canary"])
    path = make_model("spoilt.onnx", metadata=json.dumps(document))
    with pytest.raises(FoldcamError, match=words):
        read_contract(path)


def test_a_canary_comes_back_from_its_document(make_probed):
    contract = read_contract(make_probed())
    assert contract.canary is not None
    assert len(contract.to_json()) < 4000
    assert replace(contract, canary=None).to_json() != contract.to_json()


def test_the_run_ends_with_the_warning(make_probed, wrong_map, photo, runtime, cache):
    model, picture = make_probed(change=wrong_map), photo("a.png")
    refused = runtime("run", model, picture, "--json")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert "answers wrongly" in refused.stderr
    done = runtime("run", model, picture, "--json", "--accept-wrong")
    assert done.returncode == 0
    assert "WARNING" in done.stderr
    assert "answers wrongly" in json.loads(done.stdout)["accepted_wrong"]
    done = runtime("run", model, picture, "--accept-wrong")
    assert done.stderr.count("WARNING") == 2  # at the start and at the end
    right = runtime("run", make_probed(), picture, "--json")
    assert right.returncode == 0
    assert json.loads(right.stdout)["accepted_wrong"] is None


def test_bench_refuses_and_times_on_demand(make_probed, wrong_map):
    model = make_probed(change=wrong_map)
    quick = BenchOptions(passes=12, warm_up=2, rate=0.0, frame=(32, 24), threads=1)
    with pytest.raises(FoldcamError, match="answers wrongly"):
        run_bench([model], quick)
    document = run_bench([model], replace(quick, accept_wrong=True))
    assert "answers wrongly" in document["runs"][0]["accepted_wrong"]
    assert text(document).count("WARNING: ") == 1
    right = run_bench([make_probed()], quick)
    assert right["runs"][0]["accepted_wrong"] is None
    assert "WARNING" not in text(right)


def test_the_doctor_asks_whatever_is_remembered(make_probed, wrong_map, tiny_model, cache, passes):
    def last(path):
        return diagnose(path)[-1]

    right = make_probed()
    open_backend(right, "cpu").close()
    asked = len(passes)
    check = last(right)
    assert check.status == "ok"
    assert "answers rightly in onnxruntime" in check.detail
    assert "embedding 1.00000, maps 1.0000 at worst" in check.detail
    assert len(passes) == asked + 3
    wrong = last(make_probed("wrong.onnx", change=wrong_map))
    assert wrong.status == "wrong"
    assert "map heatmap agrees" in wrong.detail
    without = last(tiny_model)
    assert without.status == "optional"
    assert f"foldcam probes {tiny_model}" in without.advice
    gone = last(tiny_model.with_name("gone.onnx"))
    assert gone.status == "missing"
    assert "foldcam probes" in diagnosis_text([without])


def test_the_doctors_exit_status_says_that_an_answer_is_wrong(make_probed, wrong_map, runtime):
    wrong = runtime("doctor", "--model", make_probed(change=wrong_map))
    assert wrong.returncode == 3
    assert "answers wrongly" in wrong.stdout
    assert runtime("doctor", "--model", make_probed("right.onnx")).returncode == 0


def test_a_file_is_hashed_again_only_where_it_has_changed(make_probed, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "foldcam.runtime.engine.canary.check.sha256_of_file",
        lambda path: hashed.append(path) or sha256_of_file(path),
    )
    model = make_probed()
    open_backend(model, "cpu").close()
    monkeypatch.setattr("foldcam.runtime.engine.canary.check.KEPT_FROM", 0)
    hashed.clear()
    for _ in range(2):
        open_backend(model, "cpu").close()
    assert hashed == [model]
    os.utime(model, ns=(1, 1))
    open_backend(model, "cpu").close()
    assert hashed == [model, model]
