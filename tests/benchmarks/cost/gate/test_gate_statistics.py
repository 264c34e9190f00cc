"""The gate's test: exact ranks, what passes and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.benchmarks.cost.gate.judging import LEAST_REPEATS, bound_rank, judge, lower_bound
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    ("repeats", "rank"),
    # P(at most k - 1 heads of R) <= 0.02: 1/64; 9/256 is too much; 11/1024; 1/4096 + 12/4096.
    [(6, 1), (8, 1), (10, 2), (12, 3), (20, 5)],
)
def test_the_bound_is_the_order_statistic_of_the_sign_test(repeats: int, rank: int) -> None:
    assert bound_rank(repeats, 0.02) == rank


def test_at_a_level_of_a_half_the_bound_is_the_middle() -> None:
    assert lower_bound([5.0, 1.0, 3.0], 0.5) == 3.0


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(FoldcamError, match="5 repeats are too few"):
        bound_rank(LEAST_REPEATS - 1)
    bound_rank(LEAST_REPEATS)


def test_ten_repeats_fail_where_nine_lie_above_the_limit() -> None:
    baseline = [1.0] * 20
    nine = [1.03] * 9 + [1.0]
    eight = [1.03] * 8 + [1.0] * 2
    assert judge("x", nine, baseline, 0.025).outcome == "fail"
    assert judge("x", eight, baseline, 0.025).outcome == "pass"


def test_a_rise_within_the_margin_passes_and_its_change_is_told() -> None:
    row = judge("x", [1.02] * 10, [1.0] * 20, 0.025)
    assert row.outcome == "pass"
    assert row.change == pytest.approx(0.02)
    assert row.limit == pytest.approx(1.025)


def test_what_became_faster_passes() -> None:
    assert judge("x", [0.5] * 10, [1.0] * 20, 0.025).outcome == "pass"


def test_a_figure_that_the_baseline_lacks_is_not_compared() -> None:
    row = judge("x", [1.0] * 10, None, 0.025)
    assert (row.outcome, row.limit, row.change) == ("not compared", None, None)


def test_false_alarms_are_as_rare_as_promised_where_the_median_is_the_limit() -> None:
    # The worst case: the true median is the limit itself.
    generator = np.random.default_rng(0)
    runs = generator.standard_t(2, size=(4000, 10))
    alarms = np.mean([lower_bound(list(run)) > 0 for run in runs])
    # 11/1024, and the standard error of 4000 draws.
    assert alarms == pytest.approx(11 / 1024, abs=0.006)


def test_a_slowdown_twice_the_margin_is_found_through_heavy_noise() -> None:
    generator = np.random.default_rng(1)
    baseline = list(1.007 + 0.005 * generator.standard_t(3, size=20))
    caught = [
        judge("x", list(1.05 * 1.007 + 0.005 * generator.standard_t(3, 10)), baseline, 0.025)
        for _ in range(200)
    ]
    assert sum(row.outcome == "fail" for row in caught) >= 196
