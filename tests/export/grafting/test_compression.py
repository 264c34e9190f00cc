"""Prototypes per label, and a low rank."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.low_rank import factors
from foldcam.export.grafting.options import parse_compression
from foldcam.export.grafting.prototypes import with_prototypes
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def bank():
    """Label a: two tight groups of two; label b: one row."""
    angles = np.deg2rad([0, 2, 90, 92, 180])
    weights = np.array([[1, 0.5], [0.5, 1], [-1, 0], [-1, 0.2], [0, 1]], np.float32)
    return Bank(
        np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32),
        weights,
        np.arange(5, dtype=np.int32),
        (LabelRun("a", 4), LabelRun("b", 1)),
        "sampled:5",
    )


def test_prototypes_are_the_means_of_clusters_within_a_label(bank):
    smaller = with_prototypes(bank, 2)
    assert smaller.grad_weights.shape == (3, 2)
    # (1, .5) and (.5, 1) meet at (.75, .75).
    np.testing.assert_allclose(
        smaller.row_grad_weights(),
        [[0.75, 0.75], [0.75, 0.75], [-1, 0.1], [-1, 0.1], [0, 1]],
        atol=1e-6,
    )
    assert smaller.compression == "prototypes:2"
    assert np.array_equal(smaller.embeddings, bank.embeddings)
    assert smaller.labels == bank.labels


def test_a_label_with_few_rows_keeps_them(bank):
    np.testing.assert_array_equal(with_prototypes(bank, 4).row_grad_weights(), bank.grad_weights)


def test_prototypes_need_labels(random_bank):
    with pytest.raises(FoldcamError, match="use --compress rank:R"):
        with_prototypes(random_bank(6, 3, 4, transform="none"), 2)


def test_a_rank_that_is_there_loses_nothing(random_bank):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(20, 3)) @ generator.normal(size=(3, 9))
    weights /= np.abs(weights).max(axis=1, keepdims=True)
    bank = random_bank(20, 3, 9)
    exact = Bank(
        bank.embeddings, weights.astype(np.float32), bank.grad_index, bank.labels, bank.objective
    )
    found = factors(exact.grad_weights, 3)
    assert (found.rows.shape, found.basis.shape) == ((20, 3), (3, 9))
    np.testing.assert_allclose(found.product(), weights, atol=1e-5)
    # One less is the best there is: the error is the singular value left out.
    lost = np.linalg.norm(factors(exact.grad_weights, 2).product() - weights)
    assert lost == pytest.approx(np.linalg.svd(weights)[1][2], rel=1e-4)


def test_a_low_rank_serves_small_rows_as_well_as_large_ones():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20, 4)) @ generator.normal(size=(4, 9))
    rows += 0.1 * generator.normal(size=rows.shape)
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    alike = factors(rows.astype(np.float32), 4).product()
    sizes = 2.0 ** generator.integers(-60, 60, size=(20, 1))
    unlike = factors((rows * sizes).astype(np.float32), 4).product()
    np.testing.assert_allclose(unlike / sizes, alike, atol=1e-6)


def test_a_rank_that_saves_nothing_is_refused(random_bank):
    with pytest.raises(FoldcamError, match="must be below 3"):
        factors(random_bank(20, 3, 9, shared=True).grad_weights, 3)


@pytest.mark.parametrize(
    "text", ["rank", "rank:0", "rank:-1", "prototypes:x", "svd:3", "", "none:1"]
)
def test_a_compression_that_is_none_is_refused(text):
    with pytest.raises(FoldcamError, match="is not none, rank:R or prototypes:N"):
        parse_compression(text)
