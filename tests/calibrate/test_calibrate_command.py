"""`foldcam calibrate` end to end: passes, fails, repairs itself, repeats itself, refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from foldcam.export.exporting.threshold import choose_threshold
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.model.folded_model import FoldedModel

PLAIN = ("--no-bias-correction",)


def _calibrate(foldcam, model, data, out, *more):
    status, text, err = foldcam("calibrate", model, "--images", data, "--out", out, *more, "--json")
    return status, (json.loads(text) if text else None), err


def test_a_model_that_int8_hardly_changes_passes(foldcam, easy, data, tmp_path):
    out = tmp_path / "model.int8.onnx"
    status, found, err = _calibrate(foldcam, easy, data, out)
    assert (status, found["failures"]) == (0, []), err
    contract = read_contract(out)
    assert contract.calibration.report_sha256 == found["report_sha256"]
    assert contract.calibration.kept_float == 0
    assert found["report"]["gate_images"] == 30
    page = (tmp_path / "model.int8.report.html").read_text()
    # Two recall figures are of two sets of images.
    assert "of this table are of the 10 images to choose by" in page
    assert "the 30 other images that judge" in page
    assert (tmp_path / "model.int8.report.html").read_text().count("data:image/png") == 1
    assert foldcam("check", out, "--target", "jetpack-6.2")[0] == 0


def test_naive_quantization_fails_and_leaves_no_model(foldcam, easy, fragile, data, tmp_path):
    out = tmp_path / "model.int8.onnx"
    # Of an earlier run: it would be taken for this one's.
    assert _calibrate(foldcam, easy, data, out)[0] == 0
    naive = ("--keep-float", "none", "--method", "minmax", *PLAIN)
    status, found, _ = _calibrate(foldcam, fragile, data, out, *naive)
    assert status == 3
    assert found["failures"]
    assert not out.exists()
    assert (tmp_path / "model.int8.report.json").is_file()
    # What is no INT8 model is not removed.
    out.write_bytes(easy.read_bytes())
    assert _calibrate(foldcam, fragile, data, out, *naive)[0] == 3
    assert out.read_bytes() == easy.read_bytes()


def test_the_layer_that_does_the_damage_is_kept_in_float(foldcam, fragile, data, tmp_path):
    out = tmp_path / "model.int8.onnx"
    status, found, _ = _calibrate(foldcam, fragile, data, out, *PLAIN)
    assert status == 0
    assert found["report"]["kept_float"] == ["second"]
    assert found["report"]["sensitivity"][0][0] == "second"
    assert [len(rung["kept"]) for rung in found["report"]["ladder"]] == [0, 1]
    made = onnx.load(out)
    second = next(node for node in made.graph.node if node.name == "second")
    assert list(second.input) == ["b", "second.weight"]


def test_a_named_layer_is_kept_and_an_unknown_one_refused(foldcam, easy, data, tmp_path):
    out = tmp_path / "model.int8.onnx"
    _, found, _ = _calibrate(foldcam, easy, data, out, "--keep-float", "third")
    assert found["report"]["kept_float"] == ["third"]
    status, _, err = _calibrate(foldcam, easy, data, out, "--keep-float", "thrid")
    assert status == 1
    assert "third" in err


def test_the_same_inputs_give_the_same_bytes_with_and_without_the_cache(
    foldcam, easy, data, tmp_path
):
    first, second = tmp_path / "one" / "m.onnx", tmp_path / "two" / "m.onnx"
    _calibrate(foldcam, easy, data, first)
    _calibrate(foldcam, easy, data, second)
    assert first.read_bytes() == second.read_bytes()
    _calibrate(foldcam, easy, data, second)
    assert first.read_bytes() == second.read_bytes()


def test_an_image_a_weight_or_the_preprocessing_changes_the_key(
    foldcam, make_model, easy, data, tmp_path
):
    from dataclasses import replace

    from foldcam.runtime.contract.reading import parse_contract
    from foldcam.runtime.contract.schema import METADATA_KEY

    def key(model, images):
        out = tmp_path / "out.onnx"
        return _calibrate(foldcam, model, images, out, "--method", "minmax")[1]["report"]["key"]

    keys = [key(easy, data)]
    assert key(easy, data) == keys[0]
    changed = tmp_path / "changed"
    shutil.copytree(data, changed)
    image = cv2.imread(str(changed / "train" / "red" / "00.png"))
    image[0, 0, 0] ^= 1
    cv2.imwrite(str(changed / "train" / "red" / "00.png"), image)
    keys.append(key(easy, changed))
    model = onnx.load(easy)
    weight = next(t for t in model.graph.initializer if t.name == "first.bias")
    values = numpy_helper.to_array(weight).copy()
    values[0] += 1e-3
    weight.CopyFrom(numpy_helper.from_array(values, "first.bias"))
    onnx.save(model, tmp_path / "weight.onnx")
    keys.append(key(tmp_path / "weight.onnx", data))
    model = onnx.load(easy)
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    contract = parse_contract(entry.value, "it")
    recipe = replace(contract.preprocessing, resize="crop")
    entry.value = replace(contract, preprocessing=recipe).to_json()
    onnx.save(model, tmp_path / "crop.onnx")
    keys.append(key(tmp_path / "crop.onnx", data))
    assert len(set(keys)) == 4


def test_the_speed_is_measured_for_the_cpu_only(foldcam, easy, data, tmp_path):
    _, found, _ = _calibrate(foldcam, easy, data, tmp_path / "m.onnx", "--target", "cpu")
    # Whether so small a network gains by it is another matter.
    assert found["speed"]["ratio"] > 0
    assert _calibrate(foldcam, easy, data, tmp_path / "m.onnx")[1]["speed"] is None


def test_a_quantized_model_is_refused(foldcam, easy, data, tmp_path):
    out = tmp_path / "m.onnx"
    _calibrate(foldcam, easy, data, out)
    status, _, err = _calibrate(foldcam, out, data, tmp_path / "again.onnx")
    assert status == 1
    assert "quantized already" in err


def test_a_float16_model_and_one_without_metadata_are_refused(
    foldcam, make_model, data, tmp_path, hand_built
):
    onnx.save(make_model(precision="fp16"), tmp_path / "half.onnx")
    status, _, err = _calibrate(foldcam, tmp_path / "half.onnx", data, tmp_path / "m.onnx")
    assert (status, "float16" in err) == (1, True)
    onnx.save(hand_built.embedding_model(), tmp_path / "bare.onnx")
    status, _, err = _calibrate(foldcam, tmp_path / "bare.onnx", data, tmp_path / "m.onnx")
    assert status == 1
    assert "Traceback" not in err


def test_a_weight_that_is_nan_is_named(foldcam, easy, data, tmp_path):
    model = onnx.load(easy)
    weight = next(t for t in model.graph.initializer if t.name == "first.bias")
    weight.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), "first.bias"))
    onnx.save(model, tmp_path / "nan.onnx")
    status, _, err = _calibrate(foldcam, tmp_path / "nan.onnx", data, tmp_path / "m.onnx")
    assert status == 1
    assert "NaN" in err


@pytest.mark.parametrize(
    ("labels", "each", "said"), [(("red",), 40, "one label"), (("red", "blue"), 3, "at least 8")]
)
def test_too_few_images_or_labels_are_refused(foldcam, easy, data, tmp_path, labels, each, said):
    for label in labels:
        (tmp_path / "few" / label).mkdir(parents=True)
        files = sorted((data / "train" / label).iterdir()) * 4
        for number, path in enumerate(files[:each]):
            shutil.copy(path, tmp_path / "few" / label / f"{number}.png")
    status, _, err = _calibrate(foldcam, easy, tmp_path / "few", tmp_path / "m.onnx")
    assert status == 1
    assert said in err


def test_images_of_one_colour_are_refused(foldcam, easy, tmp_path):
    for label in ("red", "blue"):
        (tmp_path / "flat" / label).mkdir(parents=True)
        for number in range(20):
            image = np.full((8, 8, 3), 10 * number, np.uint8)
            cv2.imwrite(str(tmp_path / "flat" / label / f"{number}.png"), image)
    status, _, err = _calibrate(foldcam, easy, tmp_path / "flat", tmp_path / "m.onnx")
    assert status == 1
    assert "one colour" in err


def test_images_that_judge_have_chosen_nothing(easy, data):
    from foldcam.calibrate.calibrator import CalibrationOptions, calibrate
    from foldcam.calibrate.selection import select

    parts = select(data, 12, 100, 100, 0)
    paths = [{sample.path for sample in part}
             for part in (parts.calibration, parts.choice, parts.gate)]  # fmt: skip
    assert [len(part) for part in paths] == [12, 18, 30]
    assert not paths[0] & paths[1] | paths[0] & paths[2] | paths[1] & paths[2]
    outcome = calibrate(easy, data, CalibrationOptions(count=12))
    report = outcome.report
    assert [report[f"{name}_images"] for name in ("calibration", "choice", "gate")] == [12, 18, 30]
    assert {rung["figures"]["images"] for rung in report["ladder"]} == {18}
    assert report["gate"]["figures"]["images"] == 30
    # Chosen within half of what the gate allows.
    assert report["limits_to_choose_by"]["heatmap_correlation_mean"] == pytest.approx(0.99)
    assert report["limits_to_choose_by"]["heatmap_correlation_p5"] == pytest.approx(0.95)


def test_data_of_one_part_are_dealt_out_to_all_three(data):
    from foldcam.calibrate.selection import select

    parts = select(data / "train", 100, 100, 9, 0)
    assert [len(p) for p in (parts.calibration, parts.choice, parts.gate)] == [13, 8, 9]


def test_the_report_can_be_hashed_from_its_file(foldcam, easy, data, tmp_path):
    from foldcam.runtime.system.files import digest_of

    out = tmp_path / "m.onnx"
    _calibrate(foldcam, easy, data, out)
    stored = json.loads((tmp_path / "m.report.json").read_text())
    assert digest_of(stored["report"]) == stored["report_sha256"]
    assert read_contract(out).calibration.report_sha256 == stored["report_sha256"]


@pytest.mark.parametrize(
    ("stage", "files"),
    [("thresholds", [".json", ".npz"]), ("sensitivity", [".json"] * 2 + [".npz"] * 2)],
)
def test_an_interrupted_calibration_goes_on_where_it_was(
    easy, fragile, data, tmp_path, monkeypatch, stage, files
):
    from foldcam.calibrate import calibrator
    from foldcam.calibrate.calibrator import CalibrationOptions
    from foldcam.calibrate.quality import Damage
    from foldcam.calibrate.statistics import Store

    options = CalibrationOptions(correct_biases=False)
    counted = {"thresholds": 0, "sensitivity": 0}

    def count(name, done, total):
        if name in counted:
            counted[name] += 1

    whole = calibrator.calibrate(fragile, data, options, progress=count).model.SerializeToString()
    once = dict(counted)

    def stop(name, done, total):
        count(name, done, total)
        if name == stage and done == 2:
            raise KeyboardInterrupt

    counted.update(dict.fromkeys(counted, 0))
    store = Store(tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        calibrator.calibrate(fragile, data, options, store=store, progress=stop)
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == files
    again = calibrator.calibrate(fragile, data, options, store=store, progress=count)
    assert again.model.SerializeToString() == whole
    # What was done before the interruption was not done again.
    assert counted == once

    def never(*arguments, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(calibrator, "gptq_levels", never)
    monkeypatch.setattr(calibrator, "gather", never)
    monkeypatch.setattr(Damage, "each", never)
    with pytest.raises(AssertionError, match="computed again"):
        # Another model finds nothing there.
        calibrator.calibrate(easy, data, options, store=store)


def test_a_folded_model_whose_bank_is_gone_is_refused(foldcam, easy, data, tmp_path):
    model = onnx.load(easy)
    kept = [t for t in model.graph.initializer if not t.name.startswith("foldcam.bank")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, tmp_path / "bare.onnx")
    status, _, err = _calibrate(foldcam, tmp_path / "bare.onnx", data, tmp_path / "m.onnx")
    assert status == 1
    assert err.strip() == "error: The folded model's bank is missing from its graph."


def test_layers_kept_in_float_become_float16(foldcam, fragile, data, tmp_path):
    out = tmp_path / "m.onnx"
    status, found, err = _calibrate(foldcam, fragile, data, out, "--float", "fp16", *PLAIN)
    assert status == 0, err
    assert found["report"]["kept_float"] == ["second"]
    assert found["report"]["float16_steps"] >= 1
    assert read_contract(out).precision == "fp16"
    made = onnx.load(out)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    second = next(node for node in made.graph.node if node.name == "second")
    assert types[second.input[1]] == onnx.TensorProto.FLOAT16
    first = next(node for node in made.graph.node if node.name == "first")
    assert first.output[0] == "a"
    assert foldcam("check", out, "--target", "jetpack-6.2")[0] == 0


def test_where_every_layer_is_quantized_nothing_becomes_float16(foldcam, easy, data, tmp_path):
    out = tmp_path / "m.onnx"
    _, found, _ = _calibrate(foldcam, easy, data, out, "--float", "fp16")
    assert found["report"]["float16_steps"] == 0
    assert read_contract(out).precision == "fp32"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--float", "fp16", "--target", "cpu"),
        ("--float", "fp8"),
    ],
)
def test_wrong_usage_of_float16_is_status_2_or_1(foldcam, easy, data, tmp_path, wrong):
    status, found, _ = _calibrate(foldcam, easy, data, tmp_path / "m.onnx", *wrong)
    assert status in (1, 2)
    assert found is None


def test_the_form_for_tensorrt_8_6_is_accepted_by_the_checker(foldcam, make_model, data, tmp_path):
    onnx.save(make_model(opset=17), tmp_path / "old.onnx")
    out = tmp_path / "m.onnx"
    status, _, err = _calibrate(foldcam, tmp_path / "old.onnx", data, out)
    assert status == 0, err
    assert next(e.version for e in onnx.load(out).opset_import if not e.domain) == 17
    assert foldcam("check", out, "--target", "jetpack-6.0")[0] == 0


def test_the_rule_for_unknown_images_and_its_score_stay(foldcam, easy, data, tmp_path):
    choose_threshold(easy, tmp_path / "rule.onnx", accept=0.5, score="whitened")
    out = tmp_path / "int8.onnx"
    status, _, err = foldcam("calibrate", tmp_path / "rule.onnx", "--images", data, "--out", out)
    assert status == 0, err
    assert read_contract(out).unknown == read_contract(tmp_path / "rule.onnx").unknown
    with FoldedModel.load(out, provider="cpu") as model:
        result = model(np.full((16, 16, 3), 90, np.uint8))
    assert isinstance(result.unknown, bool)


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
def test_what_makes_the_input_of_whole_frames_stays_as_it_was(
    float_type, foldcam, make_model, data, tmp_path
):
    onnx.save(make_model(input_type="uint8"), tmp_path / "plain.onnx")
    onnx.save(make_model(input_type="uint8", frame=(64, 48)), tmp_path / "whole.onnx")
    found = {}
    for name in ("plain", "whole"):
        out = tmp_path / f"{name}.int8.onnx"
        status, found[name], err = _calibrate(
            foldcam, tmp_path / f"{name}.onnx", data, out, "--float", float_type
        )
        assert status == 0, err
    judged = [found[name]["report"]["gate"] for name in ("plain", "whole")]
    assert judged[0] == judged[1]
    assert read_contract(tmp_path / "whole.int8.onnx").frame == (64, 48)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    with (
        FoldedModel.load(tmp_path / "whole.int8.onnx", "cpu", 1) as whole,
        FoldedModel.load(tmp_path / "plain.int8.onnx", "cpu", 1) as plain,
    ):
        got, expected = whole(frame), plain(frame)
    np.testing.assert_allclose(got.embedding, expected.embedding, atol=0.05)
    quantized = onnx.load(tmp_path / "whole.int8.onnx").graph
    names = {t.name: t.data_type for t in quantized.initializer if "frame_" in t.name}
    assert names["foldcam.frame_row_weights"] == onnx.TensorProto.FLOAT


def test_ctrl_c_says_where_it_goes_on_and_the_next_run_does(fragile, data, tmp_path):
    """A program of its own, which is interrupted when its first choices are kept."""
    out, kept = tmp_path / "m.onnx", tmp_path / "kept"
    command = [
        *(sys.executable, "-m", "foldcam", "calibrate", str(fragile), "--images", str(data)),
        *("--out", str(out), "--cache", str(kept)),
    ]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while program.poll() is None and not list(kept.glob("*.json")):
            time.sleep(0.005)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 130, err
    assert f"What was found is kept in {kept}: the same command goes on from it." in err
    assert "Traceback" not in err
    assert not out.exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert out.exists()
