"""What is said of figures, in words."""

from __future__ import annotations

from typing import Any

import pytest

from foldcam.benchmarks.evaluation.explanation.report import notes_of, verdict


def _value(mean: float, low: float = 0.0, high: float = 0.0) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def _document(minus_other: dict[str, float], right: int = 9) -> dict[str, Any]:
    forms = {form: _value(0.25) for form in ("own", "other", "shifted", "minus_shifted")}
    measures = {"contrast_lost": {**forms, "minus_other": minus_other}}
    if right:
        measures["label_lost"] = {**forms, "minus_other": _value(0)}
    return {
        "methods": ["contribution", "centre"],
        "images": {"train": 20, "test": 10, "right": right},
        "picture": {"contribution": {"20": measures}, "centre": {"20": measures}},
        "map": [7, 7],
        "blank": {"contribution": 0},
        "curves": {"contribution": {}},
    }


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (_value(0.05, 0.03, 0.07), "The heat is worth something: blurring its hottest 20 % costs "
         "0.050 of contrast more than blurring what another picture's map names (95 % interval of "
         "the difference 0.030 to 0.070)"),
        (_value(0.01, -0.01, 0.03), "The heat says next to nothing"),
        (_value(-0.01, -0.03, 0.01), "The heat says next to nothing: blurring its hottest 20 % "
         "costs no more contrast (-0.010)"),
        (_value(-0.05, -0.07, -0.03), "The heat names the wrong places"),
    ],
)  # fmt: skip
def test_the_interval_against_another_pictures_map_decides(
    difference: dict[str, float], words: str
) -> None:
    assert verdict(_document(difference)).startswith(words)


def test_labels_lost_stand_beside_those_of_maps_that_ask_nothing() -> None:
    assert verdict(_document(_value(0))).endswith(
        "Labels lost of the 9 that are right: 25% by its own map, 25% by another picture's, 25% by "
        "its own shifted, 25% by a blob in the middle (never saw the picture)."
    )


def test_without_a_right_label_that_is_said() -> None:
    text = verdict(_document(_value(0), right=0))
    assert text.endswith("No label of the 10 pictures is right to begin with.")


def test_blank_and_coarse_maps_few_pictures_and_what_is_undefined_are_said() -> None:
    document = _document(_value(0))
    assert notes_of(document, None) == ["10 pictures are few: see the width of the intervals."]
    document.update(map=[3, 3], blank={"contribution": 2}, curves={})
    coarse, blank, _, obstacle, curves = notes_of(document, "The head rounds.")
    assert "3 x 3 cells only, fewer than 5 x 5: 20 % of them are 2" in coarse
    assert blank.startswith("2 of 10 maps of contribution are blank")
    assert obstacle.endswith("The head rounds.")
    assert "undefined" in curves
