"""Baselines and gradients compared in a world where it is known which cells speak for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, load_subjects
from foldcam.benchmarks.studies.transfer.baselines import (
    MAPS,
    MEASURES,
    PAIRS,
    Explainer,
    compared,
    markdown_differences,
    markdown_maps,
)
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.builder import build_bank
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Sample
from foldcam.export.models.spec import load_model
from foldcam.export.networks.cut import Network
from foldcam.export.networks.onnx_networks.summand_network import with_summands
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.images.preprocess import Preprocessing

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)
ON_SUMMANDS = [name for name in MAPS if name != "by mean"]


class World:
    """A network of the squares' file, cut at its last activation and at its summands."""

    def __init__(self, squares: Path, name: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(squares)
            module = load_model(f"overhead_squares:{name}").module
        training, testing = split_samples(squares / "squares.csv", 0)
        self.queries: Subjects = load_subjects(testing, RECIPE)
        base = TorchNetwork(module, (32, 32))
        self.cuts = [self._cut(base, training), self._cut(with_summands(base), training)]
        network, bank = self.cuts[-1]
        pixels = torch.from_numpy(RECIPE.normalized(np.stack(self.queries.resized)))
        self.activations = network.forward(pixels)
        unit = self.activations.embedding.numpy()
        self.rows = (unit @ bank.embeddings.T).argmax(axis=1).astype(np.int64)

    @staticmethod
    def _cut(network: Network, training: Sequence[Sample]) -> tuple[Network, Bank]:
        return network, build_bank(network, RECIPE, training, parse_objective("all-triplets")).bank

    def compared(self, cuts: int = 2) -> dict[str, Any]:
        return compared(self.cuts[:cuts], RECIPE, self.queries, self.rows, seed=0, draws=50)


@pytest.fixture(scope="module")
def linear(squares: Path) -> World:
    return World(squares, "make")


@pytest.fixture(scope="module")
def squared(squares: Path) -> World:
    return World(squares, "squared")


@pytest.fixture(scope="module")
def of_squared(squared: World) -> dict[str, Any]:
    return squared.compared()


def test_the_own_gradient_of_a_linear_head_is_the_transferred_one(linear: World) -> None:
    maps = Explainer(*linear.cuts[1], own=True).maps(linear.activations, linear.rows)
    for baseline in ("none", "mean"):
        own, transferred = maps[f"{baseline}, own"], maps[baseline]
        # Rows of the bank are scaled to a greatest grad-weight of 1.
        factor = own.max() / transferred.max()
        np.testing.assert_allclose(own, factor * transferred, atol=1e-6 * own.max(), rtol=1e-4)


def test_a_picture_that_is_the_average_training_picture_has_no_evidence(linear: World) -> None:
    network, bank = linear.cuts[1]
    assert bank.mean_summands is not None
    average = torch.from_numpy(bank.mean_summands)[None].expand_as(linear.activations.feature_map)
    maps = Explainer(network, bank, own=True).maps(
        replace(linear.activations, feature_map=average), linear.rows
    )
    assert not maps["mean"].any()
    assert not maps["mean, own"].any()
    assert maps["none"].any()


def test_a_linear_head_is_not_asked_for_the_image_s_own_gradient(linear: World) -> None:
    document = linear.compared()
    assert document["linear"]
    assert set(document["maps"]) == {"by mean", "none", "mean"}


def test_a_head_that_is_not_linear_gets_every_map_and_every_difference(
    of_squared: dict[str, Any],
) -> None:
    assert not of_squared["linear"]
    assert list(of_squared["maps"]) == list(MAPS)
    assert set(of_squared["differences"]) == {f"{a} minus {b}" for a, b in PAIRS}
    for values in (*of_squared["maps"].values(), *of_squared["differences"].values()):
        assert set(values) == set(MEASURES)


def test_the_summands_of_an_average_pool_are_the_last_activation(
    of_squared: dict[str, Any],
) -> None:
    assert of_squared["kind"] == "pool"
    assert all(
        abs(value["mean"]) < 1e-6
        for value in of_squared["differences"]["none minus by mean"].values()
    )


def test_maps_name_the_square_of_the_colour_that_is_asked_for(of_squared: dict[str, Any]) -> None:
    for name in ON_SUMMANDS:
        values = of_squared["maps"][name]
        assert values["grid_pointing"]["mean"] > 0.7, name
        assert values["contrast_lost"]["low"] > 0, name
        assert values["deletion"]["mean"] < 0.5 < values["insertion"]["mean"], name


def test_without_a_sum_only_today_s_map_is_measured(squared: World) -> None:
    document = squared.compared(cuts=1)
    assert document["kind"] == "none"
    assert list(document["maps"]) == ["by mean"]
    assert document["differences"] == {}


def test_tables_leave_out_pairs_of_equal_maps(of_squared: dict[str, Any]) -> None:
    table = markdown_differences({"squared": of_squared})
    assert "none minus by mean" not in table
    assert len(markdown_maps({"squared": of_squared}).splitlines()) == 2 + len(MAPS)


def test_a_difference_whose_interval_excludes_zero_is_bold() -> None:
    clear = {"mean": 0.5, "low": 0.4, "high": 0.6}
    unclear = {"mean": 0.1, "low": -0.1, "high": 0.3}
    values = {**dict.fromkeys(MEASURES, unclear), "insertion": clear}
    table = markdown_differences({"head": {"differences": {"mean minus none": values}}})
    assert table.count("**") == 2
    assert "**+0.500 (+0.400 to +0.600)**" in table
