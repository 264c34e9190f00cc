"""The verdict on a GPU's answers: what passes, what fails, and what the report says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.engine.device import Gpu
from foldcam.runtime.measurement.comparison.self_test import (
    AbsentError,
    compare,
    sample_images,
    self_test,
    self_test_text,
)
from foldcam.runtime.system.errors import FoldcamError

GPU = Gpu("Orin", "8.7", True, 1 << 30)


class Doctored:
    """The right backend, whose outputs `change` then spoils."""

    name, device = "tampered 1.0", "cuda"

    def __init__(self, model, change):
        self._backend, self._change = open_backend(model, "cpu"), change
        self.contract = self._backend.contract
        self.closed = False

    def run(self, images):
        outputs = self._backend.run(images)
        self._change(outputs)
        return outputs

    def close(self):
        self.closed = True


def add(name, value):
    def change(outputs):
        outputs[name] = outputs[name] + np.asarray(value, outputs[name].dtype)

    return change


def swap(outputs):
    outputs["neighbor"] = outputs["neighbor"][:, ::-1]


def spoil_last(name):
    def change(outputs):
        outputs[name][-1, ..., -1] = np.nan

    return change


def right(outputs):
    pass


def test_equal_backends_pass(tiny_model):
    reference = open_backend(tiny_model, "cpu")
    found = compare(reference, Doctored(tiny_model, right), "fp32")
    assert {each.output for each in found} == {"embedding", "heatmap", "neighbor", "similarity"}
    assert all(each.good for each in found)
    assert max(each.worst for each in found) < 1e-12


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (add("embedding", [0.0, 0.0, 0.9]), {"embedding"}),
        (add("heatmap", 0.1), {"heatmap"}),
        (add("similarity", 0.01), {"similarity"}),
        (add("neighbor", 1), {"neighbor"}),
        (spoil_last("embedding"), {"embedding"}),
        (spoil_last("heatmap"), {"heatmap"}),
        (spoil_last("similarity"), {"similarity"}),
    ],
)
def test_wrong_output_is_named(tiny_model, change, wrong):
    reference = open_backend(tiny_model, "cpu")
    # Another row with the same similarity would be a tie, so the similarity moves as well.
    also = add("similarity", 0.003) if wrong == {"neighbor"} else right

    def both(outputs):
        change(outputs), also(outputs)

    found = compare(reference, Doctored(tiny_model, both), "fp32")
    bad = {each.output for each in found if not each.good}
    assert bad - {"similarity"} == wrong - {"similarity"}
    assert wrong <= bad


def test_ties_may_change_places_and_then_maps_are_not_compared(tiny_model):
    def change(outputs):
        swap(outputs)
        outputs["heatmap"] = 1 - outputs["heatmap"]

    # Both rows are as similar to a grey image.
    grey = np.full((1, 3, 8, 8), 0.5, np.float32)
    reference = open_backend(tiny_model, "cpu")
    similar = reference.run(grey)["similarity"]
    assert similar[0, 0] == similar[0, 1]
    from foldcam.runtime.measurement.comparison.self_test import _differences

    found = Doctored(tiny_model, change)
    result = _differences(reference.run(grey), found.run(grey), 2e-3)
    assert result["neighbor"] == 0
    assert result["heatmap"] == 0


def test_estimates_are_compared(tiny_estimator):
    reference = open_backend(tiny_estimator, "cpu")
    assert all(each.good for each in compare(reference, reference, "fp16"))
    for name, value in (("estimate", 2.0), ("heatmap_lower", 0.2)):
        found = compare(reference, Doctored(tiny_estimator, add(name, value)), "fp16")
        assert [each.output for each in found if not each.good] == [name]


def test_sample_images_of_a_model_of_whole_frames_are_frames(contract_with):
    contract = contract_with(input_type="uint8", frame=(32, 16))
    assert sample_images(contract, 2, 7).shape == (2, 16, 32, 3)


@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_sample_images_are_the_models_and_always_the_same(contract_with, input_type):
    contract = contract_with(input_type=input_type, width=12)
    images = sample_images(contract, 2, 7)
    assert images.shape == ((2, 8, 12, 3) if input_type == "uint8" else (2, 3, 8, 12))
    assert images.dtype == input_type
    np.testing.assert_array_equal(images, sample_images(contract, 2, 7))
    assert images[0].std() > 0
    assert not np.array_equal(images[0], images[1])


def test_report_has_all_that_a_bug_report_needs(tiny_model):
    opened = []

    def opener(change):
        def open_(model, folder):
            assert folder.is_dir()
            opened.append(Doctored(model, change))
            return opened[-1], "fp16"

        return open_

    def broken(model, folder):
        raise FoldcamError(f"{folder}/x.engine and {model} do not fit.")

    def absent(model, folder):
        raise AbsentError("not installed.")

    candidates = {"good": opener(right), "none": absent}
    report = self_test(tiny_model, lambda: GPU, candidates)
    assert report["passed"]
    candidates.update(bad=opener(add("heatmap", np.nan)), broken=broken)
    report = self_test(tiny_model, lambda: GPU, candidates)
    assert json.loads(json.dumps(report))["passed"] is False
    assert all(backend.closed for backend in opened)
    text = self_test_text(report)
    assert text.startswith("foldcam self-test: FAILED\ndevice   Orin, compute capability 8.7\n")
    for part in ("onnxruntime", "numpy", "python", "bank of 3 rows, D = 3, K = 3"):
        assert part in text
    assert "good (tampered 1.0, fp16): right" in text
    assert "bad (tampered 1.0, fp16): WRONG" in text
    assert " ! heatmap        worst not finite  allowed 5e-02  (absolute)" in text
    assert "none: not here: not installed." in text
    assert "broken: DID NOT RUN: x.engine and tiny.onnx do not fit." in text
    assert str(tiny_model.parent) not in text


def test_nothing_to_test_is_said(tiny_model):
    def absent(model, folder):
        raise AbsentError("TensorRT is not installed.")

    with pytest.raises(FoldcamError, match=r"Nothing here can run on Orin: TensorRT is not inst"):
        self_test(tiny_model, lambda: GPU, {"tensorrt": absent})


def test_without_a_gpu_the_program_says_what_is_missing(runtime, tiny_model):
    from foldcam.runtime.engine.device import find_gpu

    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    done = runtime("self-test", tiny_model)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: The self-test needs an NVIDIA GPU")
    assert done.stderr.count("\n") == 1
    assert runtime("doctor", tiny_model).returncode == 2


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 3)])
def test_exit_status_is_the_verdict(monkeypatch, capsys, tiny_model, passed, status):
    import typer.testing

    from foldcam.runtime.cli.runtime import app

    report = self_test(
        tiny_model, lambda: GPU,
        {"x": lambda m, f: (Doctored(m, right if passed else add("heatmap", 1.0)), "fp32")},
    )  # fmt: skip
    monkeypatch.setattr(
        "foldcam.runtime.measurement.comparison.self_test.self_test", lambda model: report
    )
    done = typer.testing.CliRunner().invoke(app, ["self-test", str(tiny_model)])
    assert done.exit_code == status
    assert ("PASSED" if passed else "FAILED") in done.stdout


@pytest.fixture
def explained_model(make_model, explained):
    return make_model(contract=explained("contribution", "contrast"))


def test_contributions_contrast_and_runner_up_are_compared(explained_model):
    reference = open_backend(explained_model, "cpu")
    found = compare(reference, Doctored(explained_model, right), "fp32")
    names = {"contribution", "contrast", "runner_up", "runner_up_similarity"}
    assert names < {each.output for each in found}
    assert all(each.good for each in found)
    for name in sorted(names):
        changed = compare(reference, Doctored(explained_model, add(name, 1)), "fp32")
        wrong = {each.output for each in changed if not each.good}
        # Another runner-up of another similarity is no tie, and its contrast is another one.
        assert wrong == {name} if name != "runner_up" else not wrong


def test_another_runner_up_is_wrong_unless_both_are_as_similar(explained_model):
    def other(outputs):
        outputs["runner_up"] = outputs["runner_up"] + 1
        outputs["runner_up_similarity"] = outputs["runner_up_similarity"] - 0.1

    reference = open_backend(explained_model, "cpu")
    changed = compare(reference, Doctored(explained_model, other), "fp32")
    wrong = {each.output for each in changed if not each.good}
    assert wrong == {"runner_up", "runner_up_similarity"}


def test_rounding_where_there_is_no_evidence_is_no_wrong_heatmap(explained_model):
    """Every contribution is negative; the candidate's heatmap shows a cell of rounding."""

    def against(cell):
        def change(outputs):
            outputs["contribution"] = -np.abs(outputs["contribution"]) - 0.1
            outputs["heatmap"] = np.zeros_like(outputs["heatmap"])
            if cell:
                outputs["contribution"][..., 0, 0] = 1e-5
                outputs["heatmap"][..., 0, 0] = 1.0

        return change

    reference = Doctored(explained_model, against(False))
    wrong = {
        each.output
        for each in compare(reference, Doctored(explained_model, against(True)), "fp32")
        if not each.good
    }
    assert "heatmap" not in wrong
