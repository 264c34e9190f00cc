"""The check of runs that fail: every kind does fail, and in order."""

from __future__ import annotations

import pytest

from foldcam.benchmarks.studies.reliability.endings import KINDS, Ending, endings
from foldcam.benchmarks.studies.reliability.originals import folded_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return folded_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_fails_ends_in_order(kind, model, tmp_path):
    assert [each for each in endings(kind, 3, model, tmp_path) if not each.in_order] == []


@pytest.mark.parametrize(
    "ending",
    [
        Ending(134, "error: x\n"),
        Ending(1, "error: x\nterminate called without an active exception\n"),
        Ending(1, ""),
        Ending(0, "error: x\n"),
    ],
)
def test_another_ending_is_noticed(ending):
    assert not ending.in_order
