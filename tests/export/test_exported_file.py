"""Folded models of torch networks: what is in the file, and what must not be."""

from __future__ import annotations

import getpass
import socket
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

ORIGIN = Origin("net:make", "", "0" * 64, "data", "train", "1" * 64)


def test_the_file_holds_nothing_of_the_exporting_machine(folded_file, shared_photos):
    data = folded_file.read_bytes()
    repository = Path(__file__).resolve().parents[2]
    forbidden = {
        str(repository),
        sysconfig.get_paths()["purelib"],
        "site-packages",
        tempfile.gettempdir() + "/",
        str(shared_photos.parent),
        str(Path.home()) + "/",
        socket.gethostname(),
        "networks.py",
        ".py",
        'File "',
        "pkg.torch",
    }
    if getpass.getuser() != "root":  # a word that may occur
        forbidden.add(getpass.getuser())
    assert [text for text in forbidden if len(text) > 2 and text.encode() in data] == []


def test_the_networks_own_notes_are_removed_before_folding(networks, cut):
    model = cut("Normalized").to_onnx()
    for text in (b".py", b"site-packages", b"tests/export", b"stack_trace"):
        assert text not in model.SerializeToString()
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_whole_checker_passes(folded_file):
    onnx.checker.check_model(str(folded_file), full_check=True)


def test_the_contract_names_the_network_and_the_data(folded_file, networks):
    contract = read_contract(folded_file)
    assert contract.origin.network == "tinynet:make"
    assert contract.origin.data == "photos"
    assert contract.origin.split == "train"
    assert contract.layer == "trunk.act"
    assert contract.feature_map == (6, 5, 7)
    assert contract.normalized
    assert [(run.name, run.count) for run in contract.labels] == [
        ("blue", 4),
        ("green", 4),
        ("red", 4),
    ]
    assert (contract.bank.rows, contract.bank.grad_weight_rows) == (12, 3)
    assert {"torch", "onnx", "python"} <= set(contract.versions)


@pytest.mark.parametrize("name", ["Training", "SharedActivation", "WritesThroughView"])
def test_onnx_returns_what_torch_returns(name, networks, cut, hand_built):
    torch.manual_seed(0)
    module = getattr(networks, name)().eval()
    images = torch.randn(3, 3, *networks.SIZE)
    got = hand_built.run(cut(name).to_onnx(), images.numpy())
    np.testing.assert_allclose(got["embedding"], module(images).detach(), atol=1e-5)
    np.testing.assert_allclose(got["feature_map"], module.feature(images).detach(), atol=1e-5)


def test_a_layer_before_an_in_place_activation_is_exported_before_it(networks, cut, hand_built):
    network = cut("SharedActivation", "second")
    images = torch.randn(3, 3, *networks.SIZE)
    got = hand_built.run(network.to_onnx(), images.numpy())
    activations = network.forward(images)
    assert got["feature_map"].min() < 0
    np.testing.assert_allclose(got["feature_map"], activations.feature_map, atol=1e-5)
    np.testing.assert_allclose(got["embedding"], activations.embedding, atol=1e-5)


def test_parameters_named_like_the_outputs_do_not_collide(networks, cut, hand_built, random_bank):
    network = cut("NamedLikeOutputs")
    images = torch.randn(2, 3, *networks.SIZE)
    made = fold(
        network.to_onnx(),
        random_bank(5, 3, 4),
        preprocessing=Preprocessing(networks.SIZE[1], networks.SIZE[0]),
        layer=network.layer,
        origin=ORIGIN,
        versions={},
        options=FoldOptions(neighbors=2),
    )
    got = hand_built.run(made, images.numpy())
    np.testing.assert_allclose(got["embedding"], network.forward(images).embedding, atol=1e-5)
    assert got["heatmap"].shape == (2, 1, 5, 7)
    assert got["neighbor"].shape == got["similarity"].shape == (2, 2)


def test_an_opset_that_torch_cannot_write_is_one_sentence(cut):
    with pytest.raises(FoldcamError, match=r"opset.* 5 ") as caught:
        cut("PlainConv").to_onnx(5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_the_opset_asked_for_is_folded(opset, networks, cut, hand_built, random_bank):
    made = fold(
        cut("PlainConv").to_onnx(opset),
        random_bank(7, 3, 4),
        preprocessing=Preprocessing(networks.SIZE[1], networks.SIZE[0]),
        layer="trunk.act",
        origin=ORIGIN,
        versions={},
        options=FoldOptions(transfer=2, neighbors=3, heatmap_size="input", input_type="uint8"),
    )
    (entry,) = [e for e in made.opset_import if e.domain in ("", "ai.onnx")]
    assert entry.version == opset
    onnx.checker.check_model(made, full_check=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *networks.SIZE, 3), np.uint8)
    assert hand_built.run(made, pixels)["heatmap"].shape == (2, 1, *networks.SIZE)
