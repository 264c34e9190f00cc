"""Measures of retrieval, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.export.banks.retrieval import query_measures, recall_at_k


@pytest.mark.parametrize(
    ("right", "first", "precision", "penalty", "at_r"),
    [
        ([1, 1, 0, 0], 1, 1.0, 1.0, 1.0),
        ([0, 1, 0, 1], 2, 0.5, 0.5, 0.25),
        ([0, 0, 0, 1], 4, 0.25, 0.25, 0.0),
        ([1, 0, 1, 0, 0, 1], 1, (1 + 2 / 3 + 1 / 2) / 3, 0.5, (1 + 2 / 3) / 3),
    ],
)
def test_one_query_by_hand(right, first, precision, penalty, at_r) -> None:
    found = query_measures(np.asarray(right, bool))
    assert found.first == first
    assert found.average_precision == pytest.approx(precision)
    assert found.inverse_penalty == pytest.approx(penalty)
    assert found.precision_at_r == pytest.approx(at_r)


def test_queries_among_themselves_do_not_find_themselves() -> None:
    rows = np.asarray([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.7, 0.7]], np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = recall_at_k(rows, np.asarray([0, 0, 1, 0, 2]))
    # The third and the last have no row of their label to find.
    assert found.queries == 3
    assert found.recall[1] == pytest.approx(2 / 3)
    assert found.recall[4] == 1
