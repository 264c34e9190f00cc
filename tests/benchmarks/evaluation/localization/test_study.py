"""The whole evaluation on a world where the right answer is known: coloured squares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.localization.methods import METHODS, REFERENCE, TRANSFERRED
from foldcam.benchmarks.evaluation.localization.report import (
    METRICS,
    markdown_differences,
    markdown_table,
    text_table,
)
from foldcam.benchmarks.evaluation.localization.study import StudyOptions, run_study, split_samples
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture(scope="module")
def document(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results")
    options = StudyOptions(model="overhead_squares:make", preprocessing=RECIPE, draws=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(squares)
        written = run_study(squares / "squares.csv", out, options, lambda *_: None)
    written["out"] = out
    return written


def _value(document: dict[str, Any], name: str, metric: str) -> float:
    return float(document["methods"][name][metric]["mean"])


def test_heat_lies_on_the_square_and_in_the_cell_that_is_asked_for(
    document: dict[str, Any],
) -> None:
    assert document["recall_at_1"] == 1.0
    assert _value(document, TRANSFERRED, "grid_pointing") > 0.9
    assert _value(document, TRANSFERRED, "grid_pointing_maps") > 0.9
    assert _value(document, TRANSFERRED, "heat_in_box") > 0.9
    assert _value(document, TRANSFERRED, "pointing") == 1.0


def test_a_map_that_asks_nothing_scores_blind_chance_in_the_grid(document: dict[str, Any]) -> None:
    for name in ("mean_activation", "centred_blob", "uniform", "random"):
        assert _value(document, name, "grid_pointing") == pytest.approx(0.25, abs=0.06)


def test_transfer_equals_its_reference_for_this_linear_head(document: dict[str, Any]) -> None:
    for metric in METRICS:
        gap = document["differences"][REFERENCE][metric]["mean"]
        assert abs(gap) < 1e-6


def test_hiding_the_square_costs_the_contrast_at_once(document: dict[str, Any]) -> None:
    assert _value(document, TRANSFERRED, "deletion") < _value(document, "random", "deletion")
    assert _value(document, TRANSFERRED, "insertion") > _value(document, "random", "insertion")


def test_every_method_has_every_metric_with_an_interval_around_it(
    document: dict[str, Any],
) -> None:
    assert set(document["methods"]) == set(METHODS)
    for row in document["methods"].values():
        assert set(row) == set(METRICS)
        for value in row.values():
            assert value["low"] <= value["mean"] <= value["high"]


def test_all_triplets_do_not_depend_on_chance(document: dict[str, Any]) -> None:
    spread = {name: row["map_spread"] for name, row in document["stability"].items()}
    assert spread[TRANSFERRED] < 1e-6
    assert {"one_triplet_gradcam", "transferred, sampled:5"} <= set(spread)


def test_results_are_written_and_read_back(document: dict[str, Any]) -> None:
    out: Path = document["out"]
    stored = json.loads((out / "localization.json").read_text())
    assert stored["methods"] == document["methods"]
    for name in ("localization.md", "localization.png", "best.png", "worst.png", "grids.png"):
        assert (out / name).stat().st_size > 0
    assert text_table(stored).count("\n") > len(METHODS)
    assert markdown_table(stored).count("\n") == len(METHODS) + 1
    assert "**" in markdown_differences(stored)


def test_data_without_a_split_is_split_once_and_each_label_is_on_both_sides(squares: Path) -> None:
    training, testing = split_samples(squares / "squares.csv", 0)
    again, _ = split_samples(squares / "squares.csv", 0)
    assert [s.path for s in training] == [s.path for s in again]
    assert not {s.path for s in training} & {s.path for s in testing}
    assert len(testing) == 9
    assert {s.label for s in training} == {s.label for s in testing} == {"red", "green", "blue"}


def test_labels_with_too_few_images_to_split_are_named(tmp_path: Path) -> None:
    for label, count in (("many", 4), ("few", 2)):
        for number in range(count):
            write_image(tmp_path / label / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FoldcamError, match="'few' has 2 images"):
        split_samples(tmp_path, 0)


def test_images_without_boxes_are_refused(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for number in range(3):
            write_image(tmp_path / label / f"{number}.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(FoldcamError, match="boxes"):
        run_study(tmp_path, tmp_path / "out", StudyOptions(model="demo"), lambda *_: None)
