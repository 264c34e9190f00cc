"""Images are opened once and networks hashed once, whatever a command does with them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foldcam.export.banks import head_trial
from foldcam.export.banks.head_trial import FeatureCache
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import add_to_bank_file, build_bank_file
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.spec import wrap_module
from foldcam.export.networks.torch_cut import TorchNetwork

_opened: list[str] | None = None


def _listen(event, arguments):
    if event == "open" and _opened is not None and isinstance(arguments[0], (str, Path)):
        _opened.append(str(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def _hook():
    # It stays for the life of the process, and listens only where a test asks it to.
    sys.addaudithook(_listen)


@pytest.fixture
def opens():
    """Calls a function; returns how often each picture was opened meanwhile."""

    def call(function):
        global _opened
        _opened = []
        try:
            function()
        finally:
            opened, _opened = _opened, None
        return Counter(path for path in opened if path.endswith(".png"))

    return call


def _once(samples):
    return {str(sample.path): 1 for sample in samples}


@pytest.fixture
def loaded(networks, preprocessing):
    def make(name):
        torch.manual_seed(0)
        return wrap_module(getattr(networks, name)(), preprocessing=preprocessing, name="net:make")

    return make


@pytest.mark.parametrize("name", ["Normalized", "MlpHead"])
def test_an_export_opens_each_picture_once(name, loaded, photos, opens, tmp_path):
    data = load_dataset(photos)
    counted = opens(lambda: export_model(loaded(name), data, tmp_path / "m.onnx", batch_size=5))
    assert counted == _once(data.samples)


def test_a_fitted_head_opens_each_picture_once(loaded, photos, opens, tmp_path):
    data = load_dataset(photos)
    counted = opens(
        lambda: export_model(loaded("Normalized"), data, tmp_path / "m.onnx", head_rule="fitted")
    )
    assert counted == _once(data.samples)


def test_a_bank_is_built_and_added_to_with_one_opening_each(loaded, photos, opens, tmp_path):
    data = load_dataset(photos)
    first = replace(data, samples=data.samples[:8])
    goal = parse_objective("all-triplets")
    built = []

    def build():
        built.append(build_bank_file(loaded("MlpHead"), first, tmp_path / "a.safetensors", goal))

    assert opens(build) == _once(first.samples)
    bank = built[0].report.bank

    def add():
        # Four of them are in the bank already, which only their hashes tell.
        added = replace(data, samples=data.samples[4:])
        add_to_bank_file(bank, loaded("MlpHead"), added, tmp_path / "b.safetensors")

    assert opens(add) == _once(data.samples[4:])


def test_a_network_is_hashed_once_per_export(loaded, photos, monkeypatch, tmp_path):
    hashed = []
    usual = TorchNetwork._hashed
    monkeypatch.setattr(TorchNetwork, "_hashed", lambda self: hashed.append(self) or usual(self))
    export_model(loaded("Normalized"), load_dataset(photos), tmp_path / "m.onnx")
    assert len(hashed) == 1


def test_a_layer_that_the_search_finds_as_well_is_cut_once(loaded, monkeypatch):
    cut = []
    usual = TorchNetwork.__init__

    def counted(self, *arguments, **settings):
        cut.append(self)
        usual(self, *arguments, **settings)

    monkeypatch.setattr(TorchNetwork, "__init__", counted)
    found = loaded("Normalized").network()
    cut.clear()
    again = loaded("Normalized").network(found.layer)
    assert len(cut) == 1
    assert (again.layer, again.summands, again.pooled) == (found.layer, "pool", ())


def test_the_cache_of_a_sum_over_positions_holds_no_map(loaded, photos, monkeypatch, tmp_path):
    kept = []

    class Recorder(FeatureCache):
        def keep(self, positions, activations):
            kept.append(activations)
            super().keep(positions, activations)

    monkeypatch.setattr(head_trial, "FeatureCache", Recorder)
    report = export_model(loaded("MlpHead"), load_dataset(photos), tmp_path / "m.onnx")
    assert not report.bank.head.linear
    channels, height, width = report.contract.feature_map
    assert height * width > 1
    assert {each.feature_map.shape[1:] for each in kept} == {(channels, 1, 1)}
