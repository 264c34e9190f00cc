"""Known against unknown: shares, AUROC and curves by hand, and the command on little pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.openset.report import markdown, text_table, write_results
from foldcam.benchmarks.evaluation.openset.scores import SCORES
from foldcam.benchmarks.evaluation.openset.study import (
    OpensetOptions,
    ScoredFold,
    curve,
    least_accepted,
    mean_auroc,
    reached_on_halves,
    run_openset,
    unknown_accepted,
)
from foldcam.benchmarks.evaluation.openset.subject import LEFT_OUT, Asked, _leaving_out
from foldcam.export.banks.unknown.rows import Rows


def _fold(known, unknown) -> ScoredFold:
    scores = np.asarray([*known, *unknown], np.float64)
    strange = np.arange(len(scores)) >= len(known)
    return ScoredFold.of(scores, strange, np.ones(len(scores), np.bool_))


ONES = np.ones(6, np.intp)


def test_the_share_of_unknown_accepted_is_counted_at_the_threshold_of_the_known():
    fold = _fold([4, 5, 6, 7], [3, 5])
    assert unknown_accepted([fold], 1.0, ONES) == 0.5
    assert unknown_accepted([fold], 0.75, ONES) == 0.5
    assert unknown_accepted([fold], 0.5, ONES) == 0.0


def test_ties_at_the_threshold_are_accepted():
    assert least_accepted(np.asarray([1.0, 1.0, 1.0, 2.0]), 0.5) == 1.0
    assert unknown_accepted([_fold([1, 1, 1, 2], [1, 0])], 0.5, ONES) == 0.5


def test_auroc_is_that_of_scikit_learn_also_of_drawn_images():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    known, unknown = (
        np.round(generator.normal(1, 1, 40), 1),
        np.round(generator.normal(0, 1, 25), 1),
    )
    fold = _fold(known, unknown)
    drawn = generator.integers(0, 65, 65)
    counts = np.bincount(drawn, minlength=65)
    truth = (drawn < 40).astype(int)
    expected = roc_auc_score(truth, fold.scores[drawn])
    assert mean_auroc([fold], counts) == pytest.approx(expected)


def test_a_curve_goes_from_all_to_none():
    rejected = np.asarray([0.0, 0.25, 0.5, 1.0])
    assert curve([_fold([4, 5, 6, 7], [3, 5])], rejected) == [0.5, 0.5, 0.0, 0.0]


def test_folds_count_by_their_unknown_images():
    folds = [_fold([1, 2, 3], [5, 5, 5]), _fold([1, 2, 3, 4, 5], [0])]
    assert unknown_accepted(folds[:1], 0.9, ONES) == 1.0
    # Three images of four, and not one fold of two.
    assert unknown_accepted(folds, 0.9, ONES) == 0.75


def test_a_threshold_of_one_half_is_reached_on_the_other():
    generator = np.random.default_rng(0)
    halves = reached_on_halves([_fold(generator.normal(2, 1, 200), generator.normal(0, 1, 80))],
                               0.9, 100, 0)  # fmt: skip
    assert 0.9 < halves[:, 0].mean() < 0.925
    assert 0.1 < halves[:, 1].mean() < 0.5


def _asked(labels: int = 4, each: int = 12) -> Asked:
    generator = np.random.default_rng(0)
    names = tuple(f"label {place}" for place in range(labels))
    own = np.repeat(np.arange(labels), each)

    def units():
        drawn = np.eye(labels + 2)[own] + 0.15 * generator.normal(size=(len(own), labels + 2))
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    rows = Rows(units(), own, names)
    queries = Asked((), tuple(names[place] for place in own), LEFT_OUT)
    return _leaving_out(queries, rows, units(), np.ones(len(own), np.bool_), 0)


def test_every_image_is_unknown_once_and_compared_with_a_bank_without_its_label():
    asked = _asked()
    times = np.sum([setting.unknown for setting in asked.settings], axis=0)
    np.testing.assert_array_equal(times, 1)
    for setting, group in zip(asked.settings, asked.groups, strict=True):
        kept = {setting.rows.names[place] for place in setting.rows.labels}
        assert kept.isdisjoint(group)


def test_all_scores_tell_labels_on_their_own_axes_apart(tmp_path):
    document = run_openset(_asked(), OpensetOptions(draws=20, halves=5))
    assert set(document["scores"]) == set(SCORES)
    for name, found in document["scores"].items():
        assert found["auroc"]["mean"] > 0.9, name
        assert found["auroc"]["low"] <= found["auroc"]["mean"] <= found["auroc"]["high"]
        assert len(found["curve"]["false_accept"]) == 101
        assert set(found["per_label"]) == {f"label {place}" for place in range(4)}
    assert document["scores"]["similarity"]["difference"]["auroc"] is None
    assert (document["known_images"], document["unknown_images"]) == (48, 48)
    write_results(tmp_path / "out", document)
    kept = json.loads((tmp_path / "out" / "openset.json").read_text())
    assert kept["best_on_device"] in kept["scores"]
    assert (tmp_path / "out" / "openset.png").stat().st_size > 1000
    assert "| label 3 | 12 |" in markdown(document)
    assert "48 images, each unknown once" in text_table(document)


def test_two_labels_leave_scores_out_that_need_another_one():
    document = run_openset(_asked(labels=2), OpensetOptions(draws=5, halves=2))
    assert "similarity" in document["scores"]
    assert "margin" not in document["scores"]
    assert any("cannot give" in note and "margin" in note for note in document["notes"])
