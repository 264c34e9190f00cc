"""What calibration calls damage is measured on the map that the model shows."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.calibrate.graph import with_outputs
from foldcam.calibrate.quality import Damage
from foldcam.calibrate.session import Runner
from foldcam.export.grafting.in_graph import bank_of, contract_of
from foldcam.runtime.contract.schema import CONTRIBUTION


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(5).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_the_map_is_less_its_baseline_as_in_the_graph(make_model, pictures, baseline):
    model = make_model(explained=True, baseline=baseline)
    contract = contract_of(model)
    assert contract.explanation.baseline == baseline
    assert CONTRIBUTION in contract.optional_outputs
    bank = bank_of(model, contract)
    assert (bank.mean_summands is not None) == (baseline == "mean")
    damage = Damage(model, contract, pictures)
    assert damage.of(model) == pytest.approx(0.0, abs=1e-6)
    found = Runner(with_outputs(model, [CONTRIBUTION]), contract).all(pictures)[CONTRIBUTION]
    wanted = np.maximum(found.reshape(len(found), -1), 0)
    for ours, theirs in zip(damage._heat, wanted, strict=True):
        np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=1e-4)
