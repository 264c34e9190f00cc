"""Ranges, by hand: what each method keeps of a histogram."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.calibrate.qdq import Step, nearest_levels, step_for, weight_scales
from foldcam.calibrate.statistics import (
    BINS,
    _Counter,
    _where,
    clipped_share,
    load_statistics,
    save_statistics,
    threshold_of,
)


def _activation(values):
    counter = _Counter()
    counter.add(np.asarray(values, np.float32).reshape(1, -1))
    return counter.activation()


def test_minmax_keeps_the_greatest_magnitude():
    found = _activation([0.5, -3.0, 2.0])
    assert threshold_of(found, "minmax") == 3.0
    assert (found.greatest, found.least) == (3.0, -3.0)


def test_an_outlier_is_cut_by_all_but_minmax():
    values = np.concatenate([np.linspace(0, 1, 100_000), [100.0]])
    found = _activation(values)
    assert threshold_of(found, "minmax") == 100.0
    assert threshold_of(found, "percentile") == pytest.approx(1.0, abs=0.05)
    bell = np.abs(np.random.default_rng(0).normal(size=100_000))
    assert threshold_of(_activation(np.append(bell, 100.0)), "entropy") < 20


def test_the_least_squares_threshold_has_the_least_squares():
    values = np.abs(np.random.default_rng(0).laplace(size=50_000))
    found = _activation(values)

    def error(threshold):
        scale = threshold / 127
        return float(((np.minimum(np.rint(values / scale), 127) * scale - values) ** 2).mean())

    best = threshold_of(found, "mse")
    tried = found.greatest * np.arange(8, 129) / 128
    assert error(best) <= 1.02 * min(error(t) for t in tried)


def test_values_beyond_a_threshold_are_counted():
    found = _activation([1.0, 2.0, 3.0, 4.0])
    assert clipped_share(found, 2.5) == 0.5
    assert clipped_share(found, 4.0) == 0.0


def test_the_histogram_grows_with_the_range_and_loses_nothing():
    counter = _Counter()
    counter.add(np.array([[0.5, 1.0]], np.float32))
    counter.add(np.array([[7.9, 0.1]], np.float32))
    found = counter.activation()
    assert found.histogram.sum() == 4
    assert found.width * BINS == 8.0
    assert found.histogram[int(7.9 / found.width)] == 1


def test_the_mean_of_each_channel_is_kept():
    counter = _Counter()
    counter.add(np.array([[[[1.0, 3.0]], [[5.0, 5.0]]]], np.float32))
    counter.add(np.array([[[[2.0, 2.0]], [[7.0, 7.0]]]], np.float32))
    assert counter.activation().channel_mean.tolist() == [2.0, 6.0]


def test_statistics_come_back_from_their_file(tmp_path):
    found = {"x": _activation([1.0, -2.0])}
    save_statistics(tmp_path / "s.npz", found)
    again = load_statistics(tmp_path / "s.npz")["x"]
    assert (again.greatest, again.least, again.width) == (2.0, -2.0, found["x"].width)
    assert (again.histogram == found["x"].histogram).all()


def test_half_a_file_of_statistics_counts_as_none(tmp_path):
    save_statistics(tmp_path / "s.npz", {"x": _activation([1.0])})
    data = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(data[: len(data) // 2])
    assert load_statistics(tmp_path / "s.npz") is None
    assert load_statistics(tmp_path / "absent.npz") is None


def test_weights_are_rounded_per_channel_and_a_dead_channel_has_a_scale():
    weight = np.array([[127.0, -63.6], [0.0, 0.0], [0.0127, 0.00254]], np.float32)
    scales = weight_scales(weight, 0)
    levels = nearest_levels(weight, 0, scales)
    assert levels.tolist() == [[127, -64], [0, 0], [127, 25]]
    assert scales[0] == 1.0
    assert scales[1] > 0


def test_steps_are_symmetric_for_tensorrt_and_unsigned_for_cpus():
    assert step_for(127.0, negative=True, target="tensorrt") == Step(1.0, 0, False)
    assert step_for(127.0, negative=False, target="tensorrt") == Step(1.0, 0, False)
    assert step_for(255.0, negative=False, target="cpu") == Step(1.0, 0, True)
    assert step_for(127.0, negative=True, target="cpu") == Step(1.0, 128, True)


def test_the_image_on_which_an_activation_is_not_finite_is_named():
    values = np.ones((3, 2, 2), np.float32)
    values[1, 0, 1] = np.nan
    assert _where(values, 4, [f"{n}.png" for n in range(9)]) == "on 5.png"
    assert _where(values, 4, ()) == "on the images from number 5 on"
