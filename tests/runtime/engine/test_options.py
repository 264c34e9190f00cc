"""Batch sizes become profiles without a gap; a command line says the options again."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldcam.runtime.engine.options import (
    MAX_BATCH,
    BuildOptions,
    Profile,
    parse_capabilities,
    parse_sizes,
    profiles_for,
)
from foldcam.runtime.system.errors import FoldcamError


def test_each_size_gets_a_profile_that_starts_where_the_last_one_ended():
    assert profiles_for([1, 4, 8]) == (Profile(1, 1, 1), Profile(2, 4, 4), Profile(5, 8, 8))
    assert profiles_for([8, 4, 8]) == (Profile(1, 4, 4), Profile(5, 8, 8))
    assert profiles_for([1]) == BuildOptions().profiles


@given(st.lists(st.integers(1, MAX_BATCH), min_size=1, max_size=8))
def test_every_batch_up_to_the_largest_has_exactly_one_profile(sizes):
    profiles = profiles_for(sizes)
    for batch in range(1, max(sizes) + 1):
        assert sum(each.low <= batch <= each.high for each in profiles) == 1
    for size in sizes:
        assert any(each.best == size for each in profiles)


@pytest.mark.parametrize("sizes", [(0,), (MAX_BATCH + 1,), (-1, 2), ()])
def test_sizes_out_of_range_are_refused(sizes):
    with pytest.raises(FoldcamError, match=r"outside 1 to 1024|No batch size"):
        profiles_for(sizes)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (1, 4, 3), (0, 1, 1), (1, 1, MAX_BATCH + 1)])
def test_a_profile_is_in_order(sizes):
    with pytest.raises(FoldcamError, match="ascending order"):
        Profile(*sizes)


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1.5", "-1", "1;2", "9999999", "²"])
def test_what_is_no_list_of_sizes_is_refused(text):
    with pytest.raises(FoldcamError, match="no batch sizes"):
        parse_sizes(text)
    assert parse_sizes(" 1, 4 ") == (1, 4)


@pytest.mark.parametrize("text", ["", "89", "8.9.1", "sm89", "8.9,,7.5", "8.10"])
def test_what_is_no_compute_capability_is_refused(text):
    with pytest.raises(FoldcamError, match="no compute capabilities"):
        parse_capabilities(text)
    assert parse_capabilities("8.9, 7.5,8.9") == ("8.9", "7.5")


def test_the_command_says_the_options_and_quotes_names():
    options = BuildOptions(
        profiles_for([1, 4]), workspace=256 << 20, compute_capabilities=("8.9",), timing_cache=False
    )
    assert shlex.split(options.command("my birds.onnx", "rtx", "out.engine")) == [
        "runtime", "build", "my birds.onnx", "--out", "out.engine", "--flavour", "rtx",
        "--batch", "1,4", "--workspace", "256", "--compute-capability", "8.9",
        "--no-timing-cache",
    ]  # fmt: skip
    assert BuildOptions().command("a.onnx", "auto") == "runtime build a.onnx --flavour auto"
    ranged = BuildOptions((Profile(2, 3, 4),)).command("a.onnx", "auto")
    assert ranged.endswith("--min-batch 2 --opt-batch 3 --max-batch 4")
