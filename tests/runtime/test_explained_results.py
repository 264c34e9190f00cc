"""Contributions, contrast and runner-up of a model that has them, and of one that has not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foldcam.runtime import FoldcamError, FoldedModel
from foldcam.runtime.model.evidence import Share
from foldcam.runtime.model.unanswered import NAN, SIMILARITY

RED, GREEN = 200 / 255, 20 / 255


def quartered() -> np.ndarray:
    """16 x 16 RGB: red 200 in one quarter; green 20 everywhere."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 1], image[:8, :8, 0] = 20, 200
    return image


def spoiled(output: str, value: float):
    """The first number of one output's every row becomes `value`."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if output in node.output:
                node.output[0] = "clean"
        model.graph.initializer.append(
            numpy_helper.from_array(np.array(value, np.float32), "spoiler")
        )
        model.graph.node.append(helper.make_node("Add", ["clean", "spoiler"], [output]))

    return change


@pytest.fixture
def model(make_model, explained):
    with FoldedModel.load(
        make_model(contract=explained("contribution", "contrast")), "cpu", 1
    ) as opened:
        yield opened


def test_contributions_add_up_to_the_similarity_by_hand(model):
    result = model(quartered())
    norm = np.hypot(RED / 4, GREEN)
    np.testing.assert_allclose(result.contribution, [[RED / 4 / norm, 0], [0, 0]], atol=1e-6)
    assert result.contribution.dtype == np.float32
    assert result.contribution.sum() == pytest.approx(result.similarities[0], abs=1e-6)
    assert result.evidence_for == pytest.approx(result.similarities[0], abs=1e-6)
    assert result.evidence_against == 0.0
    assert not result.no_evidence


def test_the_contrast_adds_up_to_the_margin_by_hand(model):
    result = model(quartered())
    norm = np.hypot(RED / 4, GREEN)
    green = GREEN / 4 / norm
    expected = [[RED / 4 / norm - green, -green], [-green, -green]]
    np.testing.assert_allclose(result.contrast, expected, atol=1e-6)
    assert (result.runner_up, result.runner_up_label) == (1, "green")
    assert result.runner_up_similarity == pytest.approx(GREEN / norm, abs=1e-6)
    margin = result.similarities[0] - result.runner_up_similarity
    assert result.contrast.sum() == pytest.approx(margin, abs=1e-6)


def test_a_file_of_before_has_none_of_it(tiny_model):
    result = FoldedModel.load(tiny_model)(quartered())
    for name in (
        "contribution", "contrast", "runner_up", "runner_up_label", "runner_up_similarity",
        "evidence_for", "evidence_against",
    ):  # fmt: skip
        assert getattr(result, name) is None
    assert result.share((0, 0, 8, 8)) == Share(1.0, None)


def test_one_optional_output_comes_without_the_other(make_model, explained):
    result = FoldedModel.load(make_model(contract=explained("contribution")))(quartered())
    assert result.contribution is not None
    assert (result.contrast, result.runner_up) == (None, None)


def test_an_output_that_the_contract_does_not_promise_is_not_read(make_model, explained):
    everything = explained("contribution", "contrast")
    path = make_model(contract=everything, metadata=explained("contribution").to_json())
    result = FoldedModel.load(path)(quartered())
    assert result.contribution is not None
    assert result.contrast is None


@pytest.mark.parametrize(
    ("output", "value", "reason"),
    [("contribution", np.nan, NAN), ("contrast", np.nan, NAN),
     ("runner_up_similarity", np.nan, NAN), ("runner_up_similarity", 7.0, SIMILARITY)],
)  # fmt: skip
def test_numbers_that_are_none_are_no_answer(load, explained, output, value, reason):
    model = load(spoiled(output, value), explained("contribution", "contrast"))
    result = model(quartered())
    assert result.error == reason
    assert not result.contribution.any()
    assert not result.contrast.any()
    assert (result.runner_up, result.runner_up_label, result.runner_up_similarity) == (None,) * 3
    assert (result.evidence_for, result.evidence_against) == (None, None)
    assert result.share((0, 0, 4, 4)) == Share(None, None)
    assert not result.no_evidence


def test_a_runner_up_that_the_bank_does_not_have_is_refused(load, explained):
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if list(node.output) == ["runner_up_row"]:
                node.output[0] = "true"
        model.graph.initializer.append(numpy_helper.from_array(np.array(9, np.int64), "nine"))
        at = next(i for i, n in enumerate(model.graph.node) if "true" in n.output) + 1
        model.graph.node.insert(at, helper.make_node("Add", ["true", "nine"], ["runner_up_row"]))

    with pytest.raises(FoldcamError, match="bank row 10"):
        load(change, explained("contrast"))(quartered())


def test_a_blank_map_has_no_evidence_and_a_picture_without_an_answer_is_something_else(model):
    found = model(quartered())
    assert replace(found, heatmap=np.zeros((2, 2), np.float32)).no_evidence
    black = model(np.zeros((8, 8, 3), np.uint8))
    assert black.error is not None
    assert not black.no_evidence


def test_what_only_lowers_an_estimate_is_evidence(tiny_estimator):
    result = FoldedModel.load(tiny_estimator)(np.full((8, 8, 3), (0, 0, 200), np.uint8))
    assert not result.heatmap.any()
    assert not result.no_evidence
    assert result.share((0, 0, 8, 4)) == Share(None, 0.5)
