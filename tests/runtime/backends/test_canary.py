"""Engines in a pretended TensorRT are shown their probe pictures: opening, gate, bench, doctor."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.cli.machine import diagnose
from foldcam.runtime.contract.bank.bank_file import write_bank
from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.canary import Canary
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import BankInput, Calibration, LabelRun
from foldcam.runtime.engine.canary.asking import ask
from foldcam.runtime.engine.canary.check import WrongAnswersError, accepted_wrong_of
from foldcam.runtime.engine.canary.verdict import answer_of
from foldcam.runtime.measurement.bench.run import BenchOptions, run_bench
from foldcam.runtime.measurement.comparison.gate import GateFiles, GateSettings, gate_on_device
from foldcam.runtime.system.errors import FoldcamError

TENSORRT = "TensorRT 10.3.0"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "foldcam" / "probes"


@pytest.fixture
def probed_engine(gpu, with_engine, make_model, contract_with):
    """`probed_engine(precision="fp16")`: an engine whose model holds the pretended answers."""

    def make(precision="fp32", plan=None, **changes) -> Path:
        contract = contract_with(**changes)
        bare = open_without_bank(
            with_engine(make_model("bare.onnx", contract=contract), **plan or {})
        )
        answers = [answer_of(seed, found) for seed, found in enumerate(ask(bare, range(3)))]
        bare.close()
        contract = dataclasses.replace(contract, canary=Canary(precision, tuple(answers)))
        return with_engine(make_model("probed.onnx", contract=contract), **plan or {})

    return make


def open_without_bank(engine: Path):
    from foldcam.runtime.backends.tensorrt.opening import open_engine

    return open_engine(engine)


def turned(outputs):
    """Channels of the embedding in another order: a layer of the network is wrong."""
    outputs["embedding"] = np.ascontiguousarray(outputs["embedding"][:, [1, 2, 0]])


def flipped(outputs):
    """The map alone is wrong."""
    outputs["heatmap"] = np.ascontiguousarray(outputs["heatmap"][..., ::-1])


def constant(outputs):
    outputs["embedding"] = np.full_like(outputs["embedding"], 0.5)


def not_finite(outputs):
    outputs["embedding"] = outputs["embedding"] * np.float32(np.nan)


FAULTS = [turned, flipped, constant, not_finite]


def computed(gpu):
    return [call for call in gpu.opened.calls if call.startswith("computed")]


def test_a_right_engine_is_asked_once(gpu, probed_engine, cache):
    engine = probed_engine()
    before = len(computed(gpu))
    for _ in range(2):
        open_backend(engine).close()
    assert computed(gpu)[before:] == ["computed 1"] * 3
    (entry,) = cache.glob("*.json")
    assert json.loads(entry.read_text())["device"] == "cuda (Pretended GPU)"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("library", [None, "tensorrt"])
def test_an_engine_that_answers_wrongly_is_refused(fault, library, probed_engine, trt, gpu, cache):
    engine = probed_engine()
    trt.errs = fault
    path = engine if library is None else engine.with_suffix(".onnx")
    with pytest.raises(WrongAnswersError) as caught:
        open_backend(path, library=library)
    said = str(caught.value)
    assert said.startswith(f"{engine} answers wrongly in {TENSORRT} on cuda (Pretended GPU) ")
    assert "use another TensorRT, or run the .onnx with --backend onnxruntime" in said
    assert "\n" not in said
    assert gpu.opened.clean()
    assert not list(cache.glob("*.json"))


def test_auto_steps_down_to_what_answers_rightly(gpu, with_engine, make_probed, capsys):
    """The advice to run the .onnx in ONNX Runtime leads to success."""
    engine = with_engine(make_probed())  # the pretended network is another than the file's
    backend = open_backend(engine, library="auto")
    assert backend.name.startswith("onnxruntime")
    notes = capsys.readouterr().err.splitlines()
    assert f"answers wrongly in {TENSORRT}" in notes[0]
    assert notes[0].endswith("; using ONNX Runtime.")
    assert open_backend(engine.with_suffix(".onnx"), library="onnxruntime").device == "cpu"


def test_the_limits_are_those_of_the_precision(probed_engine, trt):
    """A cosine of 0.985 is wrong in float32, and may be rounding in float16."""

    def rounded(outputs):
        e = outputs["embedding"].astype(np.float64)
        across = np.cross(e, np.ones(3))
        across *= np.linalg.norm(e) / np.linalg.norm(across)
        outputs["embedding"] = (0.985 * e + np.sqrt(1 - 0.985**2) * across).astype(np.float32)

    for precision, right in (("fp16", True), ("fp32", False)):
        trt.errs = lambda outputs: None
        engine = probed_engine(precision)
        trt.errs = rounded
        if right:
            open_backend(engine).close()
            continue
        with pytest.raises(WrongAnswersError, match=r"is 0\.985\d*, below 0\.99"):
            open_backend(engine)


@pytest.mark.parametrize(
    "plan",
    [
        {"fixed": 4},
        {"profiles": [(1, 1, 1)]},
        {"profiles": [(2, 4, 8), (8, 8, 8)]},
        {"input_type": "uint8"},
    ],
)
def test_engines_of_every_batch_and_input_are_asked(plan, probed_engine, trt):
    kind = {"input_type": plan["input_type"]} if "input_type" in plan else {}
    engine = probed_engine(plan=plan, **kind)
    open_backend(engine).close()
    trt.errs = turned
    with pytest.raises(WrongAnswersError):
        open_backend(changed_plan(engine))


def changed_plan(engine: Path) -> Path:
    """The same engine as another file, of which nothing is remembered."""
    manifest = Path(f"{engine}.json")
    plan = engine.read_bytes() + b" "
    document = json.loads(manifest.read_text())
    digest = hashlib.sha256(plan).hexdigest()
    document["plan"].update(bytes=len(plan), sha256=digest)
    engine.write_bytes(plan)
    manifest.write_text(json.dumps(document))
    return engine


def test_a_bank_beside_the_engine_may_change(gpu, probed_engine, trt):
    """The probes bring a bank of their own, and the user's is the one that answers afterwards."""
    plan = {"bank_embedding": ["FLOAT", [-1, 3]], "bank_direction": ["FLOAT", [-1, 3]],
            "bank_label": ["INT32", [-1]]}  # fmt: skip
    engine = probed_engine(plan=plan, labels=(), bank_input=BankInput(100))

    def bank_of(rows):
        runs = tuple(LabelRun(f"label {at}", 1) for at in range(len(rows)))
        about = {"network_sha256": "1" * 64}
        hashes = np.zeros((len(rows), 32), np.uint8)
        return LiveBank(
            np.eye(3, dtype=np.float32)[rows], runs, ("",) * len(rows), hashes, None, about
        )

    for fault in (None, turned):
        trt.errs = fault or (lambda outputs: None)
        for rows in ([0, 1, 2], [2, 1, 0, 1]):
            write_bank(bank_of(rows), engine.with_suffix(".bank"))
            changed_plan(engine)
            if fault is not None:
                with pytest.raises(WrongAnswersError):
                    open_backend(engine)
                continue
            backend = open_backend(engine)
            assert len(backend.contract.labels) == len(rows)
            red = np.zeros((1, 3, 8, 8), np.float32)
            red[:, 0] = 1
            assert backend.run(red)["neighbor"][0, 0] == rows.index(0)
            backend.close()


def test_accepted_wrong_answers_are_shouted_each_time(probed_engine, trt, capsys, cache):
    engine = probed_engine()
    trt.errs = flipped
    for _ in range(2):
        backend = open_backend(engine, accept_wrong=True)
        assert "map heatmap agrees" in accepted_wrong_of(backend)
        backend.close()
        assert capsys.readouterr().err.startswith("WARNING: ")
    assert not list(cache.glob("*.json"))


def test_bench_and_doctor_refuse_it(probed_engine, trt):
    engine = probed_engine()
    quick = BenchOptions(passes=12, warm_up=2, rate=0.0, frame=(32, 24))
    assert run_bench([engine], quick)["runs"][0]["accepted_wrong"] is None
    trt.errs = flipped
    check = diagnose(engine)[-1]
    assert check.status == "wrong"
    assert f"answers wrongly in {TENSORRT}" in check.detail
    engine = changed_plan(engine)
    with pytest.raises(FoldcamError, match="answers wrongly"):
        run_bench([engine], quick)
    accepted = run_bench([engine], dataclasses.replace(quick, accept_wrong=True))
    assert "answers wrongly" in accepted["runs"][0]["accepted_wrong"]


def test_the_doctor_looks_at_the_engine_beside_a_model(probed_engine, trt):
    engine = probed_engine()
    trt.errs = flipped
    checks = {check.name: check.status for check in diagnose(engine.with_suffix(".onnx"))}
    assert checks["probes, tiny.engine"] == "wrong"


def test_the_gate_refuses_it(probed_engine, trt, make_model, contract_with, photo, tmp_path):
    calibration = Calibration("k" * 64, "r" * 64, 0, "tensorrt")
    engine = probed_engine("int8", calibration=calibration)
    for number in range(9):
        photo(f"red/{number}.png", (250, 30 + number, 60))
    files = GateFiles(
        engine.with_suffix(".onnx"), make_model("float.onnx", contract=contract_with()),
        tmp_path / "photos", engine,
    )  # fmt: skip
    settings = GateSettings(rounds=3, threads=1)
    assert read_contract(files.model).canary is not None
    right = gate_on_device(files, settings)["report"]
    assert right["accepted_wrong"] is None
    trt.errs = flipped
    files = dataclasses.replace(files, engine=changed_plan(engine))
    with pytest.raises(WrongAnswersError, match="--keep-float"):
        gate_on_device(files, settings)
    accepted = gate_on_device(files, dataclasses.replace(settings, accept_wrong=True))
    assert "answers wrongly" in accepted["report"]["accepted_wrong"]
