"""Four codes to a word and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldcam.export.grafting.packed_codes import PackedRows, pack, unpack, words_per_row


def test_a_word_holds_its_codes_by_hand():
    # Steps are 1 and the row's greatest is 127, so that codes are the numbers themselves.
    word = (127 + 3) + 256 * (127 - 5) + 65536 * ((127 + 127) + 256 * -127)
    packed = PackedRows(
        np.array([[word]], np.int32), np.ones(1, np.float32), np.ones(4, np.float32)
    )
    assert unpack(packed).tolist() == [[3, -5, 127, -127]]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.floats(-3, 3), st.integers(0, 1000))
def test_packing_loses_half_a_step_at_most(rows, size, exponent, seed):
    generator = np.random.default_rng(seed)
    exact = (10.0**exponent * generator.normal(size=(rows, size))).astype(np.float32)
    packed = pack(exact)
    assert packed.words.shape == (rows, words_per_row(size))
    half = packed.scales[:, None] * packed.steps / 2
    assert (np.abs(unpack(packed) - exact) <= half * 1.001 + 1e-9).all()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-127, 127), min_size=8, max_size=8), min_size=1, max_size=20))
def test_words_and_codes_are_one_to_one(codes):
    """Both ways, and the graph's float32 way of finding the upper half."""
    moved = np.array(codes, np.int64).reshape(-1, 4, 2) + 127
    upper = moved[:, 2] + 256 * (moved[:, 3] - 127)
    words = (moved[:, 0] + 256 * moved[:, 1] + 65536 * upper).astype(np.int32)
    size = 8
    ones = PackedRows(words, np.ones(len(words), np.float32), np.ones(size, np.float32))
    np.testing.assert_array_equal(unpack(ones), np.array(codes, np.float32))
    in_graph = np.floor(words.astype(np.float32) * np.float32(1 / 65536))
    np.testing.assert_array_equal(in_graph, upper)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_rows_of_zeros_stay_zeros(size):
    rows = np.zeros((3, size), np.float32)
    assert not unpack(pack(rows)).any()
    rows[1, 0] = 2
    np.testing.assert_allclose(unpack(pack(rows)), rows, rtol=1e-6)
