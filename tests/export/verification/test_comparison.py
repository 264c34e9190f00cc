"""Figures and verdicts of a comparison, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.verification.compared import Answers
from foldcam.export.verification.comparison import Comparison
from foldcam.export.verification.formulas import (
    Expected,
    NetworkValues,
    expected_outputs,
    nearest_rows,
    resized,
    scaled_estimate,
    value_range,
)
from foldcam.export.verification.pair_report import LIMITS
from foldcam.runtime.contract.schema import (
    CONTRIBUTION,
    BankSummary,
    Contract,
    Explanation,
    LabelRun,
    Origin,
)
from foldcam.runtime.images.preprocess import Preprocessing

BANK = Bank(
    np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32),
    np.array([[1, -1], [0.5, 1]], np.float32),
    np.array([0, 0, 1], np.int32),
    (LabelRun("cat", 2), LabelRun("dog", 1)),
    "all-triplets",
)
CONTRACT = Contract(
    preprocessing=Preprocessing(4, 4),
    input_type="float32",
    layer="l",
    feature_map=(2, 1, 2),
    normalized=False,
    heatmap_size=(1, 2),
    transfer=1,
    neighbors=2,
    bank=BankSummary(3, 2, 2, 2, "all-triplets", "all", "none", "0"),
    labels=BANK.labels,
    origin=Origin("n", "", "0", "d", "all", "1"),
)
FEATURE_MAP = np.array([[[[1, 2]], [[3, 0]]]], np.float32)


def _values(embedding, feature_map=FEATURE_MAP, head_end=None, pull_back=None):
    """What a network says of one image; without a normalisation `z` is the embedding."""
    z = embedding if head_end is None else head_end
    return NetworkValues(embedding, feature_map, z, pull_back)


EXPLAINED = replace(
    CONTRACT,
    explanation=Explanation("pool", "none", "transferred", 0),
    optional_outputs=(CONTRIBUTION,),
)


def test_the_formulas_by_hand():
    # e = (0.8, 0.6): similarities 0.8, 0.6, 0.96, so that row 2 with a = (0.5, 1) is taken:
    # 0.5 * (1, 2) + (3, 0) = (3.5, 1).
    embedding = np.array([[4, 3]], np.float32)
    got = expected_outputs(_values(embedding), BANK, CONTRACT)
    np.testing.assert_allclose(got.similarities, [[0.8, 0.6, 0.96]], rtol=1e-6)
    np.testing.assert_array_equal(got.rows, [[2, 0]])
    np.testing.assert_allclose(got.heatmap, [[[[1, 1 / 3.5]]]], rtol=1e-6)
    assert got.estimate is None
    # Two rows: a = ((0.5, 1) + (1, -1)) / 2 = (0.75, 0), heat (0.75, 1.5).
    both = expected_outputs(_values(embedding), BANK, replace(CONTRACT, transfer=2))
    np.testing.assert_allclose(both.heatmap, [[[[0.5, 1]]]], rtol=1e-6)


def test_contributions_by_hand():
    # Row 2 with a = (0.5, 1), as above; |z| = 10: (3.5, 1) / 10.
    values = _values(np.array([[4, 3]], np.float32), head_end=np.array([[8, 6]], np.float32))
    got = expected_outputs(values, BANK, EXPLAINED)
    np.testing.assert_allclose(got.contribution, [[[[0.35, 0.1]]]], rtol=1e-6)
    # Against the average (1, 1), (1, 3): (0, 1) * 0.5 + (2, -3) = (2, -2.5).
    bank = replace(BANK, mean_summands=np.array([[[1, 1]], [[1, 3]]], np.float32))
    mean = replace(EXPLAINED, explanation=Explanation("pool", "mean", "transferred", 0))
    got = expected_outputs(values, bank, mean)
    np.testing.assert_allclose(got.contribution, [[[[0.2, -0.25]]]], rtol=1e-6)
    np.testing.assert_allclose(got.heatmap, [[[[1, 0]]]], rtol=1e-6)
    # Four cells for two: each has half, so that the sum stays what it is.
    got = expected_outputs(values, bank, replace(mean, heatmap_size=(2, 2)))
    np.testing.assert_allclose(got.contribution, [[[[0.1, -0.125], [0.1, -0.125]]]], rtol=1e-6)
    # The bank holds directions, and what is pulled back is twice the direction.
    own = replace(EXPLAINED, explanation=Explanation("pool", "none", "own", 0))
    doubled = replace(values, pull_back=lambda directions: 2 * directions)
    got = expected_outputs(doubled, BANK, own)
    np.testing.assert_allclose(got.contribution, [[[[0.7, 0.2]]]], rtol=1e-6)


def test_the_formulas_of_values_by_hand():
    outcome = BankOutcome(np.array([0, 1, 4], np.float32), 0.2, "none")
    bank = replace(BANK, labels=(), outcome=outcome)
    got = expected_outputs(_values(np.array([[0, 2]], np.float32)), bank, CONTRACT)
    # Row 1 with a = (1, -1): (1, 2) - (3, 0) = (-2, 2), over 2.
    np.testing.assert_allclose(got.heatmap, [[[[0, 1]], [[1, 0]]]], rtol=1e-6)
    powers = np.exp(np.array([0, 1, 0.8]) / 0.2)
    np.testing.assert_allclose(got.estimate, [powers @ [0, 1, 4] / powers.sum() / 4], rtol=1e-6)
    logarithms = replace(outcome, transform="log")
    np.testing.assert_allclose(
        scaled_estimate(np.array([np.e**2], np.float32), logarithms), [2 / value_range(outcome)]
    )
    assert np.isnan(scaled_estimate(np.array([-1.0], np.float32), logarithms)[0])


def test_no_heat_and_no_embedding_are_zeros():
    nothing = expected_outputs(
        _values(np.zeros((1, 2), np.float32), 0 * FEATURE_MAP), BANK, EXPLAINED
    )
    assert (nothing.heatmap == 0).all()
    assert (nothing.contribution == 0).all()
    assert (nothing.similarities == 0).all()
    np.testing.assert_array_equal(nothing.rows, [[0, 1]])


def test_of_equal_similarities_the_first_row_is_taken():
    rows = nearest_rows(np.array([[0.5, 0.7, 0.7, 0.1]], np.float32), 3)
    np.testing.assert_array_equal(rows, [[1, 2, 0]])
    assert rows.dtype == np.int32


@given(
    maps=hnp.arrays(np.float32, (2, 1, 3, 5), elements=st.floats(0, 1, width=32)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_resizing_agrees_with_plain_interpolation(hand_built, maps, size):
    expected = [hand_built.resized(maps[n, 0], size) for n in range(2)]
    np.testing.assert_allclose(resized(maps, size)[:, 0], expected, atol=1e-6)


def _pair(**changes):
    """Two images that agree in everything, and what is changed of the answers."""
    expected = Expected(
        embedding=np.array([[4, 3], [0, 1]], np.float32),
        heatmap=np.array([[[[1, 0.25]]], [[[0.5, 1]]]], np.float32),
        rows=np.array([[2, 0], [1, 2]], np.int32),
        similarities=np.array([[0.8, 0.6, 0.96], [0, 1, 0.8]], np.float32),
        estimate=None,
    )
    answers = Answers(
        embedding=expected.embedding.copy(),
        heatmap=expected.heatmap.copy(),
        rows=expected.rows.copy(),
        similarity=np.array([[0.96, 0.8], [1, 0.8]], np.float32),
        estimate=None,
    )
    return replace(answers, **changes), expected


def _images(count=2):
    return [np.full((4, 4, 3), 20 * n, np.uint8) for n in range(count)]


def _report(answers, expected, contract=CONTRACT, precision="fp32", bank_intact=True, keep=2):
    comparison = Comparison(BANK, contract, keep)
    comparison.add(answers, expected, ["a", "b"], _images())
    report = comparison.report(
        LIMITS[precision],
        precision,
        name="m.onnx",
        library="numpy",
        bank="its own",
        bank_intact=bank_intact,
    )
    return report, comparison


def test_agreement_is_exact():
    report, _ = _report(*_pair())
    assert report.passed
    assert (report.embedding_cosine_mean, report.embedding_cosine_worst) == (1, 1)
    assert (report.same_neighbor, report.label_agreement) == (1, 1)
    assert report.neighbor_similarity_difference_worst == 0
    assert report.similarity_difference_worst == 0
    assert (report.heatmap_correlation_mean, report.heatmap_difference_worst) == (1, 0)
    assert report.heatmaps_vary
    assert report.finite
    assert report.rows_exist


def test_another_row_is_told_by_label_and_similarity():
    rows = np.array([[0, 2], [1, 2]], np.int32)
    report, _ = _report(*_pair(rows=rows, similarity=np.array([[0.8, 0.96], [1, 0.8]], np.float32)))
    assert report.same_neighbor == 0.5
    assert report.label_agreement == 0.5
    assert report.neighbor_similarity_difference_worst == pytest.approx(0.16)
    assert report.similarity_difference_worst == 0
    assert report.failures == (
        "another neighbor was chosen though its similarity differs by 0.16, above 1e-05",
    )


def test_the_order_of_transferred_rows_does_not_matter():
    rows = np.array([[0, 2], [1, 2]], np.int32)
    report, _ = _report(*_pair(rows=rows), contract=replace(CONTRACT, transfer=2))
    assert report.same_neighbor == 1
    assert report.label_agreement == 0.5


def test_heatmaps_are_compared_where_the_rows_are_the_same():
    answers, expected = _pair(rows=np.array([[0, 2], [1, 2]], np.int32))
    answers.heatmap[0] = 0.5
    answers.heatmap[1] = [[[0.75, 0.75]]]
    report, _ = _report(answers, expected)
    assert report.heatmap_difference_worst == report.heatmap_difference_mean == 0.25
    assert report.heatmap_correlation_worst == 0  # a map without any shape


def test_correlation_by_hand():
    answers, expected = _pair()
    answers.heatmap[0] = [[[0.25, 1]]]  # turned round
    report, _ = _report(answers, expected, precision="int8")
    assert report.heatmap_correlation_worst == pytest.approx(-1)
    assert report.heatmap_correlation_mean == pytest.approx(0)
    assert report.heatmap_correlation_p5 == pytest.approx(-0.9)
    (failure,) = report.failures
    assert failure.startswith("the mean heatmap correlation is")


def test_without_a_common_row_there_is_no_figure_for_heatmaps():
    report, _ = _report(*_pair(rows=np.array([[0, 2], [2, 1]], np.int32)), precision="int8")
    assert report.same_neighbor == 0
    assert report.heatmaps_compared == 0
    assert np.isnan(report.heatmap_correlation_mean)
    assert np.isnan(report.heatmap_difference_worst)
    assert any("no heatmap could be compared" in text for text in report.failures)


def test_rows_that_share_their_grad_weights_have_one_heatmap():
    # Rows 0 and 1 share theirs, and row 1 was expected.
    answers, expected = _pair(rows=np.array([[2, 0], [0, 2]], np.int32))
    answers.heatmap[1] = [[[0.75, 1]]]
    report, _ = _report(answers, expected)
    assert report.same_neighbor == 0.5
    assert report.heatmap_difference_worst == 0.25


@pytest.mark.parametrize("field", ["embedding", "heatmap", "similarity"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_in_every_output(field, value, recwarn):
    answers, expected = _pair()
    getattr(answers, field)[1] = value
    report, _ = _report(answers, expected, precision="int8")
    assert not report.finite
    assert "values that are not finite" in report.failures[-1]
    assert len(recwarn) == 0


def test_frozen_heatmaps_and_a_foreign_bank_fail():
    answers, expected = _pair()
    answers.heatmap[1] = answers.heatmap[0]
    report, _ = _report(answers, expected, bank_intact=False)
    assert not report.heatmaps_vary
    assert any("frozen" in text for text in report.failures)
    assert any("not the one that the metadata describe" in text for text in report.failures)
    assert _report(*_pair(), bank_intact=None)[0].passed


def test_estimates_are_compared():
    answers, expected = _pair(estimate=np.array([0.5, 0.25]))
    report, _ = _report(answers, replace(expected, estimate=np.array([0.5, 0.2])))
    assert report.estimate_difference_worst == pytest.approx(0.05)
    assert report.failures == ("an estimate is off by 0.05 of the values' range, above 0.001",)


def test_only_the_worst_images_are_kept_in_order():
    comparison = Comparison(BANK, CONTRACT, 2)
    answers, expected = _pair()
    for step, change in enumerate([0.1, 0.4, 0.2, np.nan, 0.3]):
        heatmap = expected.heatmap.copy()
        heatmap[1, 0, 0, 0] += change
        names = [f"fine {step}", f"off by {change}"]
        comparison.add(replace(answers, heatmap=heatmap), expected, names, _images())
    assert [pair.name for pair in comparison.worst()] == ["off by nan", "off by 0.4"]
    assert comparison.worst()[1].difference == pytest.approx(0.4)
    assert comparison.worst()[1].labels == ("cat", "cat")
    # Of equal ones the first is kept, and none may be kept at all.
    assert Comparison(BANK, CONTRACT, 0).worst() == []


def test_the_document_has_the_names_of_the_table():
    document = _report(*_pair())[0].document()
    assert document["passed"] is True
    assert document["failures"] == []
    assert document["limits"]["cosine_worst"] == LIMITS["fp32"].cosine_worst
    assert document["worst_image"] in ("a", "b")
    assert all(name == name.lower() for name in document)
