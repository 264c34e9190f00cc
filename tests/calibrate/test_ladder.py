"""The ladder: the fewest layers in float that pass, with few candidates tried."""

from __future__ import annotations

import pytest

from foldcam.calibrate.ladder import Rung, climb

RANKING = [f"layer{place}" for place in range(20)]


def _climb(needed):
    tried = []

    def measure(kept):
        tried.append(len(kept))
        failures = () if len(kept) >= needed else ("it fails",)
        return Rung(kept, 0, None, failures)

    first = measure(())
    return climb(RANKING, first, measure), tried


@pytest.mark.parametrize("needed", range(20))
def test_the_first_that_passes_keeps_the_fewest(needed):
    rungs, tried = _climb(needed)
    taken = next(rung for rung in rungs if not rung.failures)
    assert taken.kept == tuple(RANKING[:needed])
    assert len(tried) == len(set(tried)) <= 11


def test_where_nothing_passes_all_but_one_layer_were_tried_in_float():
    rungs, _ = _climb(99)
    assert all(rung.failures for rung in rungs)
    assert len(rungs[-1].kept) == 19
