"""The folded graph of a continuous outcome against plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from foldcam.export.banks.bank import BankOutcome
from foldcam.export.grafting.in_graph import BANK_VALUES, bank_of
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import Outcome
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

OUTPUTS = ("embedding", "heatmap", "neighbor", "similarity", "heatmap_lower", "estimate")


@pytest.fixture
def images(hand_built):
    shape = (5, 3, hand_built.HEIGHT, hand_built.WIDTH)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture
def bank(hand_built, random_bank):
    return random_bank(9, hand_built.D, hand_built.K, transform="log")


def _assert_equal(got, expected):
    assert set(got) == set(OUTPUTS)
    for name in OUTPUTS:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, rtol=1e-4, err_msg=name)
        assert got[name].dtype == (np.int32 if name == "neighbor" else np.float32)


@pytest.mark.parametrize("transform", ["none", "log"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("transfer", "neighbors"), [(1, 1), (1, 5), (3, 1), (3, 5)])
def test_a_bank_of_values_folds_to_what_numpy_says(
    transfer, neighbors, shared, transform, images, hand_built, random_bank
):
    bank = random_bank(9, hand_built.D, hand_built.K, shared, transform=transform)
    got = hand_built.run(hand_built.folded(bank, transfer=transfer, neighbors=neighbors), images)
    _assert_equal(got, hand_built.reference(images, bank, transfer, neighbors))
    assert got["estimate"].shape == (5,)
    # One maximum for both: the hottest place is in one of them, and no place is in both.
    both = np.concatenate([got["heatmap"], got["heatmap_lower"]], axis=1)
    np.testing.assert_allclose(both.max(axis=(1, 2, 3)), 1, atol=1e-6)
    assert (both.min(axis=1) == 0).all()
    assert (both.max(axis=(2, 3)).min(axis=1) < 0.999).all()


def test_the_estimate_by_hand(hand_built, bank):
    """Dark images have no embedding: all rows weigh the same, whatever tau is."""
    dark = np.zeros((2, 3, hand_built.HEIGHT, hand_built.WIDTH), np.float32)
    values = np.array([1, 2, 3, 4, 5, 6, 7, 8, 18], np.float32)
    plain = replace(bank, outcome=BankOutcome(values, 0.01, "none"))
    got = hand_built.run(hand_built.folded(plain), dark)
    np.testing.assert_allclose(got["estimate"], [6, 6], rtol=1e-6)
    logarithms = replace(bank, outcome=BankOutcome(np.log(values), 0.01, "log"))
    got = hand_built.run(hand_built.folded(logarithms), dark)
    np.testing.assert_allclose(got["estimate"], [np.prod(values) ** (1 / 9)] * 2, rtol=1e-5)


def test_a_cold_kernel_gives_the_nearest_rows_value(images, hand_built, bank):
    cold = replace(bank, outcome=BankOutcome(bank.outcome.values, 1e-4, "none"))
    got = hand_built.run(hand_built.folded(cold), images)
    expected = bank.outcome.values[got["neighbor"][:, 0]]
    np.testing.assert_allclose(got["estimate"], expected, atol=1e-3)


@pytest.mark.parametrize("size", ["input", (100, 37), (3, 2), (13, 7)])
def test_both_heatmaps_have_the_size_asked_for(size, images, hand_built, bank):
    wanted = (hand_built.HEIGHT, hand_built.WIDTH) if size == "input" else size
    got = hand_built.run(hand_built.folded(bank, heatmap_size=size), images)
    assert got["heatmap"].shape == got["heatmap_lower"].shape == (5, 1, *wanted)
    _assert_equal(got, hand_built.reference(images, bank, 1, 1, wanted))


def test_uint8_input_equals_the_float_path(hand_built, bank):
    recipe = Preprocessing(hand_built.WIDTH, hand_built.HEIGHT, color="bgr")
    shape = (4, hand_built.HEIGHT, hand_built.WIDTH, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    floats = hand_built.run(hand_built.folded(bank, recipe), recipe.normalized(pixels))
    made = hand_built.folded(bank, recipe, input_type="uint8")
    bytes_ = hand_built.run(made, pixels)
    for name in OUTPUTS:
        np.testing.assert_allclose(bytes_[name], floats[name], atol=1e-5, rtol=1e-4, err_msg=name)


def test_no_heat_gives_zeros_in_both(hand_built, bank, images):
    dark = np.zeros((2, 3, hand_built.HEIGHT, hand_built.WIDTH), np.float32)
    got = hand_built.run(hand_built.folded(bank), dark)
    silent = replace(bank, grad_weights=np.zeros_like(bank.grad_weights))
    quiet = hand_built.run(hand_built.folded(silent), images)
    for outputs in (got, quiet):
        assert (outputs["heatmap"] == 0).all()
        assert (outputs["heatmap_lower"] == 0).all()
        assert all(np.isfinite(outputs[name]).all() for name in OUTPUTS)


def test_the_opposite_grad_weights_swap_the_heatmaps(hand_built, bank, images):
    got = hand_built.run(hand_built.folded(bank), images)
    opposite = hand_built.run(
        hand_built.folded(replace(bank, grad_weights=-bank.grad_weights)), images
    )
    np.testing.assert_allclose(got["heatmap"], opposite["heatmap_lower"], atol=1e-6)
    np.testing.assert_allclose(got["heatmap_lower"], opposite["heatmap"], atol=1e-6)
    np.testing.assert_array_equal(got["estimate"], opposite["estimate"])


def test_images_do_not_influence_each_other(images, hand_built, bank):
    made = hand_built.folded(bank, transfer=3)
    factors = np.array([1, 100, 0, 1e-3, 7], np.float32)
    together = hand_built.run(made, images * factors.reshape(5, 1, 1, 1))
    for row, factor in enumerate(factors):
        alone = hand_built.run(made, images[row : row + 1] * factor)
        for name in OUTPUTS:
            np.testing.assert_allclose(together[name][row], alone[name][0], atol=1e-5, rtol=1e-4)


def test_the_contract_carries_the_outcome(hand_built, bank, tmp_path):
    made = hand_built.folded(bank, neighbors=3, heatmap_size=(9, 11))
    onnx.save(made, tmp_path / "m.onnx")
    contract = read_contract(tmp_path / "m.onnx")
    units = np.exp(bank.outcome.values.astype(np.float64))
    assert contract.outcome == Outcome(0.2, "log", units.min(), np.median(units), units.max())
    assert contract.labels == ()
    with pytest.raises(IndexError):
        contract.label_of(0)
    outputs = [(t.name, t.dtype, t.shape) for t in read_header(tmp_path / "m.onnx").outputs]
    assert outputs[1:] == [
        ("heatmap", "float32", ("batch", 1, 9, 11)),
        ("neighbor", "int32", ("batch", 3)),
        ("similarity", "float32", ("batch", 3)),
        ("heatmap_lower", "float32", ("batch", 1, 9, 11)),
        ("estimate", "float32", ("batch",)),
    ]
    assert bank_of(made, contract).sha256() == bank.sha256() == contract.bank.sha256


def test_a_graph_without_its_values_has_no_bank(hand_built, bank, tmp_path):
    made = hand_built.folded(bank)
    onnx.save(made, tmp_path / "m.onnx")
    tensor = next(t for t in made.graph.initializer if t.name == BANK_VALUES)
    made.graph.initializer.remove(tensor)
    with pytest.raises(FoldcamError, match="bank is missing"):
        bank_of(made, read_contract(tmp_path / "m.onnx"))


@pytest.mark.parametrize("name", ["heatmap_lower", "estimate"])
def test_a_networks_own_tensor_of_that_name_does_not_collide(name, images, hand_built, bank):
    model = hand_built.embedding_model()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for position, old in enumerate(names):
                names[position] = name if old == "pooled" else old
    from foldcam.export.grafting.fold import fold

    made = fold(
        model,
        bank,
        preprocessing=Preprocessing(hand_built.WIDTH, hand_built.HEIGHT),
        layer="relu",
        origin=hand_built.ORIGIN,
        versions={},
    )
    _assert_equal(hand_built.run(made, images), hand_built.reference(images, bank, 1, 1))
