"""A bank as inputs of the graph says what the same bank says as constants."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
import torch

from foldcam.export.banks.bank import Bank
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.grafting.bank_input import to_constants, with_directions
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.grafting.options import StorageOptions, parse_compression, parse_search
from foldcam.export.grafting.refold import fold_file
from foldcam.export.models.spec import wrap_module
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.bank.bank_file import read_bank
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

_OPTIONS = FoldOptions(neighbors=3, contrast=True)


@pytest.fixture(scope="module")
def export(networks, preprocessing, shared_photos, tmp_path_factory):
    """`export("Normalized", options, rule)`: the folded file, made once and not to be changed."""

    @cache
    def loaded(name):
        torch.manual_seed(0)
        module = getattr(networks, name)().eval()
        return wrap_module(module, preprocessing=preprocessing, name="net:make")

    @cache
    def make(name, options, rule=None):
        out = tmp_path_factory.mktemp("exported") / "model.onnx"
        data = load_dataset(shared_photos)
        export_model(loaded(name), data, out, grad_weights=rule, options=options)
        return out

    return make


@pytest.fixture
def images():
    return list(np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8))


def _same(one, other):
    assert one.labels == other.labels
    assert one.runner_up_label == other.runner_up_label
    np.testing.assert_array_equal(one.embedding, other.embedding)
    np.testing.assert_allclose(one.similarities, other.similarities, atol=1e-6)
    for name in ("heatmap", "contribution", "contrast"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


@pytest.mark.parametrize("name", ["Normalized", "MlpHead", "FlattenHead", "GlobalDepthwise"])
def test_inputs_say_what_constants_say(name, export, images):
    constant = export(name, _OPTIONS, "own" if name == "MlpHead" else None)
    asked = export(name, replace(_OPTIONS, bank_input=True, query=True))
    with FoldedModel.load(constant, "cpu") as one, FoldedModel.load(asked, "cpu") as other:
        for a, b in zip(one.run_batch(images), other.run_batch(images), strict=True):
            _same(a, b)


def test_the_file_of_the_model_names_no_label(export):
    asked = export("Normalized", replace(_OPTIONS, bank_input=True))
    assert read_contract(asked).labels == ()
    assert b"green" not in asked.read_bytes()
    with FoldedModel.load(asked, "cpu") as model:
        assert [run.name for run in model.contract.labels] == ["blue", "green", "red"]


def test_the_bank_beside_the_model_is_one_that_the_workstation_reads(export, tmp_path, images):
    asked = export("Normalized", replace(_OPTIONS, bank_input=True))
    bank, live = Bank.load(bank_path(asked)), read_bank(bank_path(asked))
    assert bank.sha256() == live.sha256
    np.testing.assert_array_equal(bank.grad_weights, live.directions)
    fold_file(asked, bank, tmp_path / "again.onnx", replace(_OPTIONS, bank_input=False))
    assert read_contract(tmp_path / "again.onnx").bank_input is None
    with (
        FoldedModel.load(asked, "cpu") as one,
        FoldedModel.load(tmp_path / "again.onnx", "cpu") as other,
    ):
        for a, b in zip(one.run_batch(images), other.run_batch(images), strict=True):
            _same(a, b)


def test_constants_in_place_of_the_inputs_are_the_folded_model(export, tmp_path, images):
    asked = export("MlpHead", replace(_OPTIONS, bank_input=True, query=True))
    model = to_constants(load_message(asked), read_contract(asked), Bank.load(bank_path(asked)))
    assert [value.name for value in model.graph.input] == ["image"]
    onnx.checker.check_model(model, full_check=True)


def test_a_swapped_bank_answers_from_the_next_pass_on(export, images):
    asked = export("Normalized", replace(_OPTIONS, bank_input=True))
    with FoldedModel.load(asked, "cpu") as model:
        first = model(images[0])
        bank = read_bank(bank_path(asked))
        hashes = np.zeros((1, 32), np.uint8)
        more = bank.with_rows("anna", first.embedding[None], ["anna/1.png"], hashes)
        model.use_bank(more)
        again = model(images[0])
        assert (again.answer, again.similarities[0]) == ("anna", pytest.approx(1.0, abs=1e-6))
        assert again.runner_up_label == first.answer
        gone = np.array([label == "anna" for label in more.row_labels()])
        model.use_bank(more.without(gone))
        _same(model(images[0]), first)


def test_a_query_is_answered_in_place_of_the_bank_s_direction(export, images):
    options = replace(_OPTIONS, bank_input=True, query=True)
    asked = export("MlpHead", options)
    with FoldedModel.load(asked, "cpu") as model:
        bank = read_bank(bank_path(asked))
        plain = model.run_batch(images)
        names = [run.name for run in bank.labels]
        queries = [bank.directions[names.index(each.answer)] for each in plain]
        for result, query, image in zip(plain, queries, images, strict=True):
            _same(model.explain(image, direction=query), result)
            turned = model.explain(image, direction=-query)
            np.testing.assert_allclose(turned.contribution, -result.contribution, atol=1e-6)


def test_it_builds_in_tensorrt(export, build_engine):
    build_engine(onnx.load(export("MlpHead", replace(_OPTIONS, bank_input=True))))
    options = replace(_OPTIONS, bank_input=True, query=True)
    build_engine(onnx.load(export("GlobalDepthwise", options)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"storage": StorageOptions(compression=parse_compression("rank:2"))}, "leave --compress"),
        ({"storage": StorageOptions(search=parse_search("lists"))}, "--search lists out"),
    ],
)
def test_what_does_not_go_with_it_is_refused(change, text, export):
    with pytest.raises(FoldcamError, match=text):
        export("Normalized", replace(_OPTIONS, bank_input=True, **change))


def test_a_head_without_a_sum_is_refused(export):
    with pytest.raises(FoldcamError, match="no function of one sum over positions"):
        export("TwoPools", replace(_OPTIONS, bank_input=True))


def test_a_query_needs_a_bank_that_is_an_input(export):
    with pytest.raises(FoldcamError, match="add --bank-input"):
        export("Normalized", replace(_OPTIONS, query=True))


def test_directions_are_one_per_label(random_bank, cut):
    from foldcam.export.networks.onnx_networks.summand_network import with_summands

    network = with_summands(cut("Normalized"))
    bank = replace(random_bank(7, 5, 3), summands="pool")
    made = with_directions(bank, network.to_onnx(), StorageOptions())
    assert made.grad_weights.shape == (3, 5)
    labels = np.array(bank.row_labels())
    mine, others = bank.embeddings[labels == "1"], bank.embeddings[labels != "1"]
    np.testing.assert_allclose(made.grad_weights[1], mine.mean(0) - others.mean(0), atol=1e-6)
