"""Contrast, margin and label of embeddings, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.explanation.damage import SHARES, Damage, Scorer
from foldcam.benchmarks.evaluation.explanation.report import damage_document, losses
from foldcam.export.banks.bank import Bank
from foldcam.runtime.contract.schema import LabelRun


@pytest.fixture
def bank() -> Bank:
    rows = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32)
    return Bank(
        embeddings=rows,
        grad_weights=np.ones((1, 2), np.float32),
        grad_index=np.zeros(3, np.int32),
        labels=(LabelRun("a", 2), LabelRun("b", 1)),
        objective="all-triplets",
    )


def test_contrast_is_the_mean_of_the_label_minus_the_mean_of_the_others(bank: Bank) -> None:
    # Mean of a: (0.8, 0.4, 0); of the others: (0, 0, 1). The embedding has norm 5.
    scores = Scorer(bank)(np.array([[3, 0, 4]], np.float32), "a")
    np.testing.assert_allclose(scores, [[0.6 * 0.8 - 0.8, 0.6 - 0.8, 0]], atol=1e-6)
    scores = Scorer(bank)(np.array([[3, 0, 4]], np.float32), "b")
    np.testing.assert_allclose(scores, [[0.8 - 0.6 * 0.8, 0.8 - 0.6, 1]], atol=1e-6)


def test_an_embedding_without_a_direction_has_nothing(bank: Bank) -> None:
    embeddings = np.array([[0, 0, 0], [np.nan, 1, 1], [np.inf, 0, 0]], np.float32)
    np.testing.assert_array_equal(Scorer(bank)(embeddings, "a"), np.zeros((3, 3)))


def test_labels_count_as_lost_only_where_they_were_right() -> None:
    before = np.array([[0.5, 0.2, 1], [0.4, 0.1, 1], [0.1, -0.3, 0]])
    after = np.zeros((3, len(SHARES), 3, 3))
    after[0, :, 0] = [0.2, -0.1, 0]
    after[1:, :, 0] = [0.3, 0.1, 1]
    damage = Damage(before, {"map": after})
    assert losses(damage, "map", "label_lost")[:, 0, 0].tolist() == [1, 0]
    np.testing.assert_allclose(losses(damage, "map", "contrast_lost")[:, 1, 0], [0.3, 0.1, -0.2])
    np.testing.assert_allclose(losses(damage, "map", "margin_lost")[:, 1, 0], [0.3, 0, -0.4])
    document = damage_document(damage, 20)["map"]["20"]
    assert document["label_lost"]["own"]["mean"] == 0.5
    assert document["label_lost"]["minus_other"]["mean"] == -0.5
    assert document["contrast_lost"]["minus_shifted"]["mean"] == pytest.approx(
        0.2 / 3 - 1 / 3, 1e-3
    )


def test_where_no_label_is_right_there_is_none_to_lose() -> None:
    damage = Damage(np.zeros((2, 3)), {"map": np.zeros((2, len(SHARES), 3, 3))})
    assert set(damage_document(damage, 5)["map"]["10"]) == {"contrast_lost", "margin_lost"}
