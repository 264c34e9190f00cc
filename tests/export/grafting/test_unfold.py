"""Unfolding gives back the network and the bank, and folding them again the same bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.probes import canary_of, write_canary
from foldcam.export.grafting.refold import stored_options
from foldcam.export.grafting.unfold import unfold
from foldcam.export.onnx_graphs.embedding_model import (
    mark_network,
    marked_network,
    marked_summands,
    strip_origin,
)
from foldcam.export.onnx_graphs.writing import PREFIX
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

VARIANTS = {
    "plain": {},
    "shared rows": {"shared": True},
    "transfer and neighbors": {"transfer": 3, "neighbors": 5, "shared": True},
    "input size": {"heatmap_size": "input"},
    "uint8": {"input_type": "uint8", "color": "rgb", "transfer": 2},
    "uint8 bgr": {"input_type": "uint8", "color": "bgr", "heatmap_size": (9, 30)},
    "continuous": {"transform": "none"},
    "continuous log uint8": {"transform": "log", "input_type": "uint8", "neighbors": 2},
}


def _contract(model):
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    return parse_contract(entry.value, "made")


def _folded(hand_built, random_bank, name, seed=0):
    options = dict(VARIANTS[name])
    bank = random_bank(
        9,
        hand_built.D,
        hand_built.K,
        options.pop("shared", False),
        seed,
        options.pop("transform", None),
    )
    recipe = Preprocessing(
        hand_built.WIDTH, hand_built.HEIGHT, color=options.pop("color", "rgb"), mean=(0.1, 0.2, 0.3)
    )
    return hand_built.folded(bank, recipe, **options), bank


def _again(network, bank, contract):
    options = FoldOptions(
        contract.transfer, contract.neighbors, contract.heatmap_size, contract.input_type
    )
    return fold(
        network,
        bank,
        preprocessing=contract.preprocessing,
        layer=contract.layer,
        origin=contract.origin,
        versions=contract.versions,
        options=options,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_folding_what_was_unfolded_gives_the_same_bytes(name, hand_built, random_bank):
    made, bank = _folded(hand_built, random_bank, name)
    contract = _contract(made)
    parts = unfold(made, contract)
    assert parts.bank.sha256() == bank.sha256()
    again = _again(parts.network, parts.bank, contract)
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_network_comes_back_as_it_was(name, hand_built, random_bank):
    made, _ = _folded(hand_built, random_bank, name)
    before = made.SerializeToString(deterministic=True)
    network = unfold(made, _contract(made)).network
    assert made.SerializeToString(deterministic=True) == before
    original = hand_built.embedding_model()
    strip_origin(original)
    assert list(network.graph.node) == list(original.graph.node)
    assert list(network.graph.initializer) == list(original.graph.initializer)
    assert {v.name: v for v in network.graph.output} == {v.name: v for v in original.graph.output}
    assert list(network.graph.input) == list(original.graph.input)
    assert PREFIX not in str(network.graph)
    assert marked_network(network) == hand_built.ORIGIN.network_sha256
    assert marked_summands(network) == ("none", 0)
    assert [entry.key for entry in network.metadata_props] == [
        "foldcam.network_sha256",
        "foldcam.summands",
    ]


def test_the_source_is_that_of_the_contract(hand_built, random_bank):
    made, _ = _folded(hand_built, random_bank, "plain")
    contract = _contract(made)
    source = unfold(made, contract).bank.source
    assert (source.origin, source.layer, source.preprocessing) == (
        contract.origin,
        contract.layer,
        contract.preprocessing,
    )


def test_another_bank_takes_the_place_of_the_first(hand_built, random_bank):
    made, _ = _folded(hand_built, random_bank, "continuous log uint8")
    contract = _contract(made)
    bank = random_bank(30, hand_built.D, hand_built.K, shared=True, seed=5)
    swapped = _again(unfold(made, contract).network, bank, contract)
    direct = hand_built.folded(bank, contract.preprocessing, input_type="uint8", neighbors=2)
    assert swapped.SerializeToString(deterministic=True) == direct.SerializeToString(
        deterministic=True
    )
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, hand_built.HEIGHT, hand_built.WIDTH, 3), np.uint8
    )
    got = hand_built.run(swapped, pixels)
    floats = contract.preprocessing.normalized(pixels)
    for name, expected in hand_built.reference(floats, bank, 1, 2).items():
        np.testing.assert_allclose(got[name], expected, atol=1e-5, err_msg=name)


def test_a_torch_network_comes_back_byte_for_byte(folded_model, networks):
    from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork
    from foldcam.export.networks.torch_cut import TorchNetwork

    network = SummandNetwork(TorchNetwork(networks.make_tiny(), networks.SIZE))
    contract = _contract(folded_model)
    parts = unfold(folded_model, contract)
    original = network.to_onnx()
    assert marked_network(original) == network.sha256() == marked_network(parts.network)
    assert marked_summands(original) == ("pool", 0) == marked_summands(parts.network)
    parts.network.ir_version = original.ir_version
    assert parts.network.SerializeToString(deterministic=True) == original.SerializeToString(
        deterministic=True
    )
    again = _again(parts.network, parts.bank, contract)
    write_canary(again, canary_of(again))
    assert again.SerializeToString(deterministic=True) == folded_model.SerializeToString(
        deterministic=True
    )


def test_a_graph_that_lost_a_node_of_its_own_is_refused(folded_model):
    nodes = [n for n in folded_model.graph.node if not n.name.startswith(PREFIX)]
    folded_model.graph.node.remove(nodes[0])
    with pytest.raises(FoldcamError, match="was changed after folding"):
        unfold(folded_model, _contract(folded_model))


def test_a_folded_model_without_its_bank_is_refused(folded_model):
    contract = _contract(folded_model)
    kept = [t for t in folded_model.graph.initializer if "bank" not in t.name]
    del folded_model.graph.initializer[:]
    folded_model.graph.initializer.extend(kept)
    with pytest.raises(FoldcamError, match="bank is missing"):
        unfold(folded_model, contract)


def test_a_mark_is_replaced_and_nothing_else(hand_built):
    model = hand_built.embedding_model()
    assert marked_network(model) is None
    entry = model.metadata_props.add()
    entry.key, entry.value = "author", "somebody"
    mark_network(model, "a" * 64)
    mark_network(model, "b" * 64)
    assert marked_network(model) == "b" * 64
    mark_network(model, "b" * 64, "attention", 3)
    assert marked_summands(model) == ("attention", 3)
    assert [e.key for e in model.metadata_props] == [
        "author",
        "foldcam.network_sha256",
        "foldcam.summands",
    ]
    assert onnx.checker.check_model(model) is None


def test_the_options_of_a_refolded_model_are_its_own(hand_built, random_bank, tmp_path):
    folded, _ = _folded(hand_built, random_bank, "plain")
    onnx.save(unfold(folded, _contract(folded)).network, tmp_path / "network.onnx")
    assert stored_options(tmp_path / "network.onnx") == FoldOptions()


def _absorbing(hand_built, random_bank):
    """A uint8 model whose network reads a grafted constant: a weight that took over a scale."""
    made, bank = _folded(hand_built, random_bank, "uint8 bgr")
    for tensor in made.graph.initializer:
        if tensor.name == "conv":
            tensor.name = PREFIX + "first_weights"
    conv = next(node for node in made.graph.node if node.op_type == "Conv")
    conv.input[1] = PREFIX + "first_weights"
    onnx.checker.check_model(made, full_check=True)
    return made, bank


def test_a_network_that_took_over_a_part_of_the_input_keeps_it(hand_built, random_bank):
    made, bank = _absorbing(hand_built, random_bank)
    contract = _contract(made)
    parts = unfold(made, contract)
    assert [d.dim_value for d in parts.network.graph.input[0].type.tensor_type.shape.dim][1:] == [
        hand_built.HEIGHT,
        hand_built.WIDTH,
        3,
    ]
    again = _again(parts.network, bank, contract)
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, hand_built.HEIGHT, hand_built.WIDTH, 3), np.uint8
    )
    expected = hand_built.run(made, pixels)
    for name, value in hand_built.run(again, pixels).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with pytest.raises(FoldcamError, match="pass --input uint8, or export"):
        _again(parts.network, bank, replace(contract, input_type="float32"))
    swapped = random_bank(20, hand_built.D, hand_built.K, seed=7)
    floats = contract.preprocessing.normalized(pixels)
    got = hand_built.run(_again(parts.network, swapped, contract), pixels)
    for name, value in hand_built.reference(floats, swapped, 1, 1, (9, 30)).items():
        np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)


def test_such_a_network_is_verified_without_its_original(hand_built, random_bank, tmp_path):
    from foldcam.export.verification.images import noise_images
    from foldcam.export.verification.run import verify_model

    made, _ = _absorbing(hand_built, random_bank)
    onnx.save(made, tmp_path / "m.onnx")
    report = verify_model(tmp_path / "m.onnx", None, noise_images(_contract(made)))
    assert report.passed, report.failures
