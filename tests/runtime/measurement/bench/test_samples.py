"""Figures of a series that can be counted by hand."""

from __future__ import annotations

import pytest

from foldcam.runtime.measurement.bench.loops import drift, instabilities, summary


def test_percentiles_are_of_all_samples_and_none_is_clipped() -> None:
    found = summary([float(value) for value in range(1, 100)] + [5000.0])
    assert (found["count"], found["p50"], found["max"]) == (100, 50.5, 5000.0)
    # The 99th percentile lies between the 99th value and the last: 99 + 0.01 * 4901.
    assert found["p99"] == pytest.approx(99 + 0.01 * (5000 - 99))
    assert found["p90"] == pytest.approx(90.1)
    assert found["iqr"] == pytest.approx(75.25 - 25.75)
    assert found["samples"][-1] == 5000.0


def test_the_samples_keep_the_order_of_time() -> None:
    assert summary([3.0, 1.0, 2.0])["samples"] == [3.0, 1.0, 2.0]


def test_drift_is_the_last_quarter_over_the_first() -> None:
    assert drift([10.0] * 10 + [11.0] * 20 + [12.0] * 10) == pytest.approx(0.2)
    assert drift([10.0] * 39) is None


def test_a_steady_series_is_stable() -> None:
    assert instabilities(summary([10.0, 10.1] * 30), "host") == []


def test_a_series_that_spreads_is_called_unstable() -> None:
    (reason,) = instabilities(summary([10.0, 12.0] * 32), "host")
    assert reason == "host: the quartiles lie 18% of the median apart"


def test_a_series_that_drifts_is_called_unstable() -> None:
    (reason,) = instabilities(summary([10.0] * 50 + [10.5] * 50), "inference")
    assert reason == "inference: the median moved by +5.0% over the run"
