"""The whole evaluation where the answer is known by construction."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.explanation import damage, study, subject
from foldcam.benchmarks.evaluation.explanation.data import Parts
from foldcam.benchmarks.evaluation.explanation.report import (
    contact_sheet,
    markdown_table,
    text_table,
)
from foldcam.benchmarks.evaluation.explanation.study import (
    Explanation,
    ExplanationOptions,
    run_explanation,
)
from foldcam.export.models.spec import LoadedModel
from foldcam.runtime.model.drawing.text import draw_caption

PLAIN = ("contribution", "heatmap_by_mean")


def _run(loaded: LoadedModel, parts: Parts, seed: int = 0) -> Explanation:
    options = ExplanationOptions(draws=50, seed=seed)
    return run_explanation(loaded, parts, options, lambda *_: None)


@pytest.fixture(scope="module")
def wandering_result(everywhere: LoadedModel, wandering_parts: Parts) -> Explanation:
    return _run(everywhere, wandering_parts)


@pytest.fixture(scope="module")
def cornered_result(corner: LoadedModel, cornered_parts: Parts) -> Explanation:
    return _run(corner, cornered_parts)


def _mean(document: dict[str, Any], kind: str, name: str, measure: str, form: str) -> float:
    # A tenth of 4 x 4 cells are two: the patch's, and one that is drawn.
    return float(document[kind][name]["10"][measure][form]["mean"])


@pytest.mark.parametrize("name", PLAIN)
def test_a_map_that_knows_the_picture_costs_the_label_and_other_maps_do_not(
    wandering_result: Explanation, name: str
) -> None:
    document = wandering_result.document
    for kind in ("picture", "on_feature_map"):
        assert _mean(document, kind, name, "label_lost", "own") == 1.0
        assert _mean(document, kind, name, "label_lost", "other") < 0.4
        assert _mean(document, kind, name, "label_lost", "shifted") < 0.4
        assert document[kind][name]["10"]["contrast_lost"]["minus_other"]["low"] > 0
        assert document[kind][name]["10"]["margin_lost"]["minus_shifted"]["low"] > 0
    assert document["verdict"].startswith("The heat is worth something: blurring its hottest 20 %")


@pytest.mark.parametrize("name", PLAIN)
def test_where_all_that_matters_is_in_one_corner_another_map_costs_as_much_and_a_shift_nothing(
    cornered_result: Explanation, name: str
) -> None:
    document = cornered_result.document
    for form, expected in (("own", 1), ("other", 1), ("shifted", 0), ("minus_other", 0)):
        assert _mean(document, "picture", name, "label_lost", form) == expected
    assert _mean(document, "picture", name, "contrast_lost", "minus_shifted") > 0.1
    assert document["verdict"].startswith("The heat says next to nothing")


@pytest.mark.parametrize("result", ["wandering_result", "cornered_result"])
def test_a_method_with_one_map_for_all_pictures_is_exactly_as_good_as_another_pictures_map(
    result: str, request: pytest.FixtureRequest
) -> None:
    document = request.getfixturevalue(result).document
    for kind in ("picture", "on_feature_map"):
        for share in ("10", "20", "30"):
            for value in document[kind]["centre"][share].values():
                assert value["minus_other"] == {"mean": 0, "low": 0, "high": 0}


def test_insertion_and_deletion_prefer_the_map_that_knows(wandering_result: Explanation) -> None:
    curves = wandering_result.document["curves"]
    for other in ("centre", "random"):
        assert curves["contribution"]["insertion"]["mean"] > curves[other]["insertion"]["mean"]
        assert curves["contribution"]["deletion"]["mean"] < curves[other]["deletion"]["mean"]


def test_what_was_measured_is_counted(wandering_result: Explanation) -> None:
    document = wandering_result.document
    assert document["images"] == {"train": 18, "test": 18, "right": 18}
    assert document["labels"] == 3
    assert document["map"] == [4, 4]
    assert "attention" not in document["methods"]
    assert document["blank"]["contribution"] == 0
    assert any("4 x 4 cells only" in note for note in document["notes"])
    assert any("a drawn half of each label" in note for note in document["notes"])
    assert json.loads(json.dumps(document)) == document


def test_figures_do_not_depend_on_the_batch(
    wandering_result: Explanation,
    everywhere: LoadedModel,
    wandering_parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (damage, study, subject):
        monkeypatch.setattr(module, "BATCH", 5)
    again = _run(everywhere, wandering_parts).document
    for kind in ("picture", "on_feature_map"):
        for name, shares in wandering_result.document[kind].items():
            for share, measures in shares.items():
                for measure, forms in measures.items():
                    for form, value in forms.items():
                        other = again[kind][name][share][measure][form]
                        assert value["mean"] == pytest.approx(other["mean"], abs=1e-4)


def test_the_seed_draws_other_controls(
    wandering_result: Explanation, everywhere: LoadedModel, wandering_parts: Parts
) -> None:
    other = _run(everywhere, wandering_parts, seed=1).document
    first = wandering_result.document
    assert _mean(other, "picture", "random", "contrast_lost", "own") != _mean(
        first, "picture", "random", "contrast_lost", "own"
    )


def test_tables_have_a_line_for_each_method_and_a_sheet_a_row_for_each_picture(
    wandering_result: Explanation,
) -> None:
    document = wandering_result.document
    lines = text_table(document).splitlines()
    assert len(lines) == 2 + len(document["methods"])
    assert max(map(len, lines)) < 120
    assert len(markdown_table(document).splitlines()) == 2 + len(document["methods"])
    sheet = contact_sheet(wandering_result.shown)
    assert sheet.dtype == np.uint8
    tile = draw_caption(np.zeros((176, 176, 3), np.uint8), "contribution")
    assert sheet.shape == (12 * tile.shape[0], (1 + len(document["methods"])) * 176, 3)
