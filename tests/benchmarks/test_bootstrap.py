"""Bootstrap intervals: exact where the distribution of the draws is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foldcam.benchmarks.evaluation.bootstrap import (
    Interval,
    bootstrap,
    bootstrap_of,
    paired_bootstrap,
    paired_bootstrap_of,
)

samples = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100))


def test_a_constant_has_no_spread() -> None:
    assert bootstrap([0.25] * 5) == Interval(0.25, 0.25, 0.25)


def test_a_constant_difference_has_no_spread_however_wide_the_samples() -> None:
    values = np.array([-64.0, 0.0, 8.0, 1024.0])
    assert paired_bootstrap(values + 1, values) == Interval(1.0, 1.0, 1.0)


def test_two_values_by_hand() -> None:
    # Draws of two from {0, 1}: mean 0 with 1/4, 0.5 with 1/2, 1 with 1/4. The middle 95 % run
    # from 0 to 1; the middle 40 % (from the 30th to the 70th percentile) are all 0.5.
    assert bootstrap([0, 1]) == Interval(0.5, 0.0, 1.0)
    assert bootstrap([0, 1], level=0.4) == Interval(0.5, 0.5, 0.5)


def test_one_value_is_its_own_interval() -> None:
    assert bootstrap([3.0]) == Interval(3.0, 3.0, 3.0)


def test_the_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(size=400)
    interval = bootstrap(values)
    half = 1.96 * values.std() / 20  # sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.12)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.12)


def test_pairing_takes_away_what_the_images_share() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.normal(scale=10, size=200)
    a, b = difficulty + 1 + generator.normal(size=200), difficulty + generator.normal(size=200)
    paired = paired_bootstrap(a, b)
    assert paired.low > 0
    alone = bootstrap(a)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_another_statistic_of_the_values() -> None:
    values = np.array([0.0, 0.0, 0.0, 100.0])
    assert bootstrap(values, statistic=lambda v: float(np.median(v))).mean == 0.0
    difference = paired_bootstrap(values, values * 0, statistic=lambda v: float(v.max()))
    # The maximum is drawn with probability 1 - (3/4)^4 = 0.68, so both ends occur.
    assert difference == Interval(100.0, 0.0, 100.0)


def test_rows_of_several_values_are_drawn_whole() -> None:
    rows = np.array([[1.0, 2.0], [10.0, 20.0], [5.0, 10.0]])
    ratio = bootstrap(rows, statistic=lambda v: float(v[:, 0].sum() / v[:, 1].sum()))
    assert ratio == Interval(0.5, 0.5, 0.5)


def test_a_statistic_of_indices_sees_the_draws_that_values_see() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(20), generator.random(20)
    by_index = paired_bootstrap_of(
        lambda i: float(a[i].mean()), lambda i: float(b[i].mean()), 20, draws=100, seed=7
    )
    assert by_index == paired_bootstrap(a, b, draws=100, seed=7)
    assert bootstrap_of(lambda i: float(a[i].mean()), 20, draws=100) == bootstrap(a, draws=100)


def test_the_measured_value_takes_every_image_once() -> None:
    drawn: list[np.ndarray] = []

    def remember(indices: np.ndarray) -> float:
        drawn.append(indices)
        return 0.0

    bootstrap_of(remember, 6, draws=10)
    assert drawn[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(drawn) == 11
    assert all(d.shape == (6,) and d.min() >= 0 and d.max() < 6 for d in drawn)


def test_the_seed_decides_the_draws() -> None:
    values = np.random.default_rng(0).random(30)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


@settings(max_examples=30, deadline=None)
@given(samples)
def test_the_interval_stays_within_the_values(values: np.ndarray) -> None:
    interval = bootstrap(values, draws=40)
    slack = 1e-9
    assert values.min() - slack <= interval.low <= interval.high <= values.max() + slack


@settings(max_examples=30, deadline=None)
@given(samples, st.integers(0, 5))
def test_exchanging_the_methods_mirrors_the_interval(values: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).normal(size=len(values))
    there = paired_bootstrap(values, other, draws=40, seed=seed)
    back = paired_bootstrap(other, values, draws=40, seed=seed)
    assert (back.mean, back.low, back.high) == pytest.approx(
        (-there.mean, -there.high, -there.low), abs=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(samples)
def test_a_higher_level_gives_a_wider_interval(values: np.ndarray) -> None:
    narrow, wide = (bootstrap(values, draws=40, level=level) for level in (0.5, 0.95))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([])
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap(1.0)
    with pytest.raises(ValueError, match="b holds NaN"):
        paired_bootstrap([1.0, 2.0], [1.0, np.nan])
    with pytest.raises(ValueError, match="same images, got 2 and 3"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="draws"):
        bootstrap([1.0], draws=0)
    with pytest.raises(ValueError, match="count"):
        bootstrap_of(lambda i: 0.0, 0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level"):
            bootstrap([1.0], level=level)
    with pytest.raises(ValueError, match="on 11 of 11"):
        bootstrap_of(lambda i: float("nan"), 3, draws=10)
