"""`runtime gate`: figures by hand, the verdict, the signed report, and what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.schema import BankSummary, Calibration, Explanation
from foldcam.runtime.measurement.comparison.gate import (
    DeviceGate,
    GateFiles,
    GateSettings,
    float_model_of,
    gate_on_device,
    gate_text,
)
from foldcam.runtime.measurement.comparison.images import read_gate_images
from foldcam.runtime.measurement.comparison.verdict import GateLimits
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import digest_of

CALIBRATED = Calibration("k" * 64, "r" * 64, 0, "cpu")
ANY_SPEED = GateSettings(GateLimits(speed_ratio=0.0), rounds=3, threads=1)
HUES = {"red": (250, 30, 60), "green": (20, 220, 40), "blue": (10, 90, 240)}


@pytest.fixture
def photos(photo, tmp_path):
    """Three photographs each of three labels, none of them a bank row."""
    for label, (r, g, b) in HUES.items():
        for number in range(3):
            photo(f"{label}/{number}.png", (r, g + number, b))
    return tmp_path / "photos"


def with_rows(order):
    """A graph whose bank rows are in another order than its labels: a network that errs."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "bank_t")
        values = numpy_helper.to_array(tensor)[:, list(order)]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), "bank_t"))

    return change


@pytest.fixture
def pair(make_model, contract_with):
    """`pair(order)`: a float model, and a quantized one that finds the rows in that order."""

    def make(order=(0, 1, 2), **changes):
        reference = make_model("tiny.onnx", contract=contract_with(**changes))
        contract = contract_with(calibration=CALIBRATED, **changes)
        return reference, make_model("tiny.int8.onnx", contract=contract, change=with_rows(order))

    return make


def test_the_same_answers_pass_and_the_report_says_of_what(pair, photos):
    reference, model = pair()
    document = gate_on_device(GateFiles(model, reference, photos), ANY_SPEED)
    report = document["report"]
    assert (report["passed"], report["failures"]) == (True, [])
    assert report["figures"]["recall"] == report["figures"]["recall_reference"] == 1.0
    assert report["figures"]["heatmaps_compared"] == 9
    assert report["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert report["reference"]["sha256"] == hashlib.sha256(reference.read_bytes()).hexdigest()
    assert report["model"]["calibration"]["report_sha256"] == "r" * 64
    assert (report["images"]["count"], report["images"]["labelled"]) == (9, 9)
    assert report["device"]["library"].startswith("onnxruntime")
    assert report["speed"]["ratio"] > 0
    assert "recall@1   100.00%" in gate_text(document)


def test_a_model_that_mixes_up_a_label_fails(pair, photos):
    reference, model = pair((0, 2, 1))
    report = gate_on_device(GateFiles(model, reference, photos), ANY_SPEED)["report"]
    assert not report["passed"]
    assert report["figures"]["recall"] == pytest.approx(1 / 3)
    assert "66.67 points" in report["failures"][0]
    # The blue ones alone were given the grad-weights of their own row.
    assert report["figures"]["heatmaps_compared"] == 3


def test_speed_is_part_of_the_verdict_where_it_was_measured(pair, photos):
    reference, model = pair()
    never = GateSettings(GateLimits(speed_ratio=1e9), rounds=3)
    report = gate_on_device(GateFiles(model, reference, photos), never)["report"]
    assert "times the float model's speed" in report["failures"][0]


def test_an_engine_is_judged_in_place_of_the_file_and_without_a_rival_not_timed(
    pair, photos, tmp_path, make_manifest_for
):
    reference, model = pair()
    tensorrt = Calibration("k" * 64, "r" * 64, 0, "tensorrt")
    engine, opened = make_manifest_for(model, calibration=tensorrt), []

    def opener(path: Path, of: Path):
        opened.append((path, of))
        return open_backend(of, "cpu")

    report = gate_on_device(GateFiles(model, reference, photos, engine), ANY_SPEED, engines=opener)[
        "report"
    ]
    assert opened == [(engine, model)]
    assert report["engine"]["built_by"] == "tensorrt 10.3.0"
    assert report["speed"] is None
    assert report["passed"]


@pytest.fixture
def make_manifest_for(tmp_path, make_model, contract_with):
    """Write an engine's plan and manifest, and the model again in the form for TensorRT."""
    from foldcam.runtime.contract.onnx_file import read_contract, read_header
    from foldcam.runtime.contract.schema import METADATA_KEY
    from foldcam.runtime.contract.tensors import expected_tensors
    from foldcam.runtime.engine.device import Host
    from foldcam.runtime.engine.manifest import FileRecord, Manifest, Target, manifest_path
    from foldcam.runtime.engine.options import BuildOptions

    def make(model: Path, calibration: Calibration) -> Path:
        make_model(model.name, contract=contract_with(calibration=calibration))
        engine, plan = model.with_suffix(".engine"), b"plan" * 100
        engine.write_bytes(plan)
        image, outputs = expected_tensors(read_contract(model))
        data = model.read_bytes()
        manifest = Manifest(
            FileRecord(engine.name, len(plan), hashlib.sha256(plan).hexdigest()),
            FileRecord(model.name, len(data), hashlib.sha256(data).hexdigest()),
            "tensorrt", "10.3.0", Target("Orin", ("8.7",), False),
            Host("aarch64", "Linux", "36.4.3"), "int8", "weak", BuildOptions(), (image,),
            tuple(outputs), (), 1.0, "0.0.1",
            json.loads(read_header(model).metadata[METADATA_KEY]),
        )  # fmt: skip
        manifest_path(engine).write_text(manifest.to_json())
        return engine

    return make


def test_the_digest_covers_the_report_and_anybody_can_compute_it(pair, photos, runtime, tmp_path):
    reference, model = pair()
    path = tmp_path / "report.json"
    done = runtime(
        "gate", model, "--images", photos, "--reference", reference, "--report", path,
        "--threads", 1,
    )  # fmt: skip
    # Which of two tiny models is faster is chance.
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(path.read_text())
    assert document["sha256"] in done.stdout
    text = (Path(__file__).parents[2] / "docs" / "int8.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("python3 -c ")]
    code = line.removeprefix("python3 -c '").rpartition("'")[0]
    shown = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == document["sha256"]
    assert document["sha256"] == digest_of(document["report"])
    document["report"]["figures"]["recall"] = 0.5
    assert document["sha256"] != digest_of(document["report"])


def test_the_float_model_is_found_beside_the_quantized_one(pair, tmp_path):
    reference, model = pair()
    assert float_model_of(model) == reference
    reference.unlink()
    with pytest.raises(FoldcamError, match="--reference"):
        float_model_of(model)


def test_images_of_the_bank_do_not_find_themselves(make_model, contract_with, photo, tmp_path):
    """Pure colours are bank rows: with two neighbors the second counts, with one none does."""
    for number in range(9):
        photo(f"red/{number}.png", (200 + number, 0, 0))
    for neighbors, in_bank, recall in ((2, 0, 0.0), (1, 9, None)):
        contract = contract_with(neighbors=neighbors)
        model = make_model(f"tiny{neighbors}.onnx", contract=contract)
        backend = open_backend(model, "cpu")
        images = read_gate_images(tmp_path / "photos", contract, lambda *_: None)
        verdict = DeviceGate(backend, images, lambda *_: None).judge(backend, None, GateLimits())
        assert (verdict.in_bank, verdict.figures.recall) == (in_bank, recall)


def test_grad_weights_of_one_row_per_label_are_the_same_for_other_rows_of_it(
    make_model, contract_with, photo, tmp_path
):
    from foldcam.runtime.contract.schema import LabelRun

    for number in range(8):
        photo(f"{number}.png", (200, 150 + number, 0))
    summary = BankSummary(3, 3, 3, 2, "all-triplets", "all", "none", "0" * 64)
    labels = (LabelRun("blue", 1), LabelRun("warm", 2))
    contract = contract_with(bank=summary, labels=labels, neighbors=1)
    reference = open_backend(make_model("a.onnx", contract=contract), "cpu")
    other = make_model("b.onnx", contract=contract, change=with_rows((0, 2, 1)))
    images = read_gate_images(tmp_path / "photos", contract, lambda *_: None)
    gate = DeviceGate(reference, images, lambda *_: None)
    verdict = gate.judge(open_backend(other, "cpu"), None, GateLimits())
    assert verdict.figures.neighbor_agreement == 0.0
    assert verdict.figures.heatmaps_compared == 8


def test_of_an_estimate_it_is_told_how_far_it_moved(make_model, outcome_with, photos):
    """Bank values 10 to 60; the quantized model's are 5 higher: a tenth of the range."""

    def raised(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "values")
        values = numpy_helper.to_array(tensor) + 5
        tensor.CopyFrom(numpy_helper.from_array(values, "values"))

    reference = make_model("price.onnx", contract=outcome_with())
    model = make_model(
        "price.int8.onnx", contract=outcome_with(calibration=CALIBRATED), change=raised
    )
    report = gate_on_device(GateFiles(model, reference, photos), ANY_SPEED)["report"]
    assert report["figures"]["estimate_error"] == pytest.approx(0.1, rel=1e-4)
    assert "estimate's error" in report["failures"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transfer": 2}, "another transfer"),
        ({"resize": "crop"}, "another preprocessing"),
        ({"layer": "other"}, "another layer"),
    ],
)
def test_models_that_do_not_belong_together_are_refused(
    change, said, pair, make_model, contract_with, photos
):
    _, model = pair()
    other = make_model("other.onnx", contract=contract_with(**change))
    with pytest.raises(FoldcamError, match=said):
        gate_on_device(GateFiles(model, other, photos), ANY_SPEED)


def test_what_cannot_be_judged_is_one_sentence(pair, photos, photo, runtime, tmp_path):
    reference, model = pair()
    few = tmp_path / "few"
    few.mkdir()
    (few / "broken.png").write_bytes(b"no picture")
    for arguments, said in (
        ((reference, "--images", photos, "--reference", reference), "not quantized"),
        ((model, "--images", photos, "--reference", model), "quantized itself"),
        ((model, "--images", few), "at least 8"),
        ((model, "--images", tmp_path / "none"), "not a folder"),
        ((model, "--images", photos, "--against", "x.engine"), "no TensorRT"),
    ):
        done = runtime("gate", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert runtime("gate", "--images", photos).returncode == 2
    assert runtime("gate", model).returncode == 2
    assert runtime("doctor", "--images", photos).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("--gate", "x.onnx", "--images", "photos"), "runtime gate MODEL --images DIR"),
        (("x.onnx", "--self-test", "--json"), "runtime self-test MODEL"),
    ],
)
def test_flags_that_became_commands_are_named(arguments, command, runtime):
    done = runtime("doctor", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert command in done.stderr


def test_it_needs_neither_torch_nor_onnx(pair, photos, child_environment):
    reference, model = pair()
    code = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'onnx', 'export', 'calibrate'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        f"sys.argv = ['runtime', 'gate', {str(model)!r}, '--images', {str(photos)!r},\n"
        f"    '--json']\n"
        "from foldcam.runtime.cli.runtime import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert json.loads(done.stdout)["report"]["figures"]["recall"] == 1.0
    assert reference.is_file()


def test_contributions_are_part_of_the_report(make_model, explained, photos):
    reference = make_model("tiny.onnx", contract=explained("contribution"))
    contract = explained("contribution", calibration=CALIBRATED)
    model = make_model("tiny.int8.onnx", contract=contract)
    document = gate_on_device(GateFiles(model, reference, photos), ANY_SPEED)
    assert document["report"]["figures"]["contribution_correlation_worst"] == pytest.approx(1.0)
    assert "contributions, correlation 1.0000 mean" in gate_text(document)


def test_maps_that_are_made_of_something_else_are_not_compared(make_model, explained, photos):
    reference = make_model("tiny.onnx", contract=explained("contribution"))
    model = make_model("tiny.int8.onnx", contract=replace(
        explained("contribution", calibration=CALIBRATED),
        explanation=Explanation("pool", "mean", "transferred"),
    ))  # fmt: skip
    with pytest.raises(FoldcamError, match="another explanation"):
        gate_on_device(GateFiles(model, reference, photos), ANY_SPEED)
