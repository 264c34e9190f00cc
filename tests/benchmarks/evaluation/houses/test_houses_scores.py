"""Metrics of price estimates by hand, and what counts as better."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.bootstrap import Interval
from foldcam.benchmarks.evaluation.houses.estimates import (
    METRICS,
    differences,
    intervals,
    median_absolute_percentage_error,
    nearest_neighbors,
    r2,
    r2_log,
    rank_correlation,
    ridge,
    verdict,
)
from foldcam.benchmarks.evaluation.houses.study import combined

PRICES = np.log([100.0, 200.0, 400.0, 800.0])


def test_metrics_by_hand():
    # 10 % over, 10 % under, exact, twice the price.
    estimates = np.log([110.0, 180.0, 400.0, 1600.0])
    assert median_absolute_percentage_error(estimates, PRICES) == pytest.approx(0.1)
    errors = np.log([1.1, 0.9, 1.0, 2.0])
    spread = ((PRICES - PRICES.mean()) ** 2).sum()
    assert r2_log(estimates, PRICES) == pytest.approx(1 - (errors**2).sum() / spread)
    assert r2(estimates, PRICES) == pytest.approx(1 - (100 + 400 + 800**2) / 287500)
    assert rank_correlation(estimates, PRICES) == pytest.approx(1)


def test_the_mean_explains_nothing_and_a_constant_orders_nothing():
    constant = np.full(4, PRICES.mean())
    assert r2_log(constant, PRICES) == pytest.approx(0)
    assert rank_correlation(constant, PRICES) == 0
    assert rank_correlation(PRICES[::-1], PRICES) == pytest.approx(-1)


def test_ties_share_their_rank():
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
    assert rank_correlation(np.array([1.0, 1, 2, 3]), PRICES) == pytest.approx(
        np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    )


def test_the_same_estimates_differ_by_nothing_and_better_ones_by_something():
    generator = np.random.default_rng(0)
    prices = generator.normal(12, 1, 60)
    good, bad = (prices + generator.normal(0, s, 60) for s in (0.1, 1.0))
    found = differences(good, {"same": good, "bad": bad}, prices, 200)
    assert all(value == Interval(0, 0, 0) for value in found["same"].values())
    assert {verdict(name, found["bad"][name]) for name in METRICS} == {"better"}
    worse = differences(bad, {"good": good}, prices, 200)["good"]
    assert {verdict(name, worse[name]) for name in METRICS} == {"worse"}
    own = intervals(good, prices, 200)
    assert all(value.low <= value.mean <= value.high for value in own.values())


def test_an_interval_that_holds_zero_is_open():
    assert verdict("r2", Interval(0.1, -0.01, 0.2)) == "open"
    assert verdict("r2", Interval(0.1, 0.01, 0.2)) == "better"
    assert verdict("median_absolute_percentage_error", Interval(0.1, 0.01, 0.2)) == "worse"


def test_neighbors_are_averaged():
    bank = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0]], np.float32)
    values = np.array([1.0, 2.0, 4.0, 100.0])
    queries = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(nearest_neighbors(queries, bank, values, 2), [1.5, 3])
    np.testing.assert_allclose(nearest_neighbors(queries, bank, values, 99), [26.75] * 2)


def test_ridge_finds_a_linear_law():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(200, 5)).astype(np.float32)
    law = rows[:, 0] * 2 - rows[:, 3] + 7
    found = ridge(rows[150:], rows[:150], law[:150].astype(np.float64))
    np.testing.assert_allclose(found, law[150:], atol=1e-2)


def test_combined_is_the_mean_of_the_log_estimates():
    from foldcam.benchmarks.evaluation.houses.estimates import METHODS

    kinds = {
        kind: {name: np.array([value, 2 * value]) for name in METHODS}
        for kind, value in (("frontal", 1.0), ("kitchen", 2.0), ("bedroom", 3.0), ("bathroom", 6.0))
    }
    assert all(values.tolist() == [3.0, 6.0] for values in combined(kinds).values())
