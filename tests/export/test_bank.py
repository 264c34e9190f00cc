"""The bank's rows, and its file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foldcam.export.banks.bank import Bank, BankOutcome, label_runs
from foldcam.export.banks.low_rank import row_scales
from foldcam.runtime.contract.schema import LabelRun, Outcome
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def bank():
    return Bank(
        np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32),
        np.array([[1, -0.5, 0], [0, 0.25, -1]], np.float32),
        np.array([0, 0, 1], np.int32),
        (LabelRun("größe", 2), LabelRun("鳥", 1)),
        "all-triplets",
        channel_rule="all",
        network_sha256="ab" * 32,
    )


def test_rows_over_their_scale_are_of_size_one_to_two_and_come_back_exactly():
    raw = np.array([[2, -4, 1], [0, 0, 0], [1e-30, -5e-31, 0], [1e-44, 0, 0], [3e38, 1e38, 0]])
    raw = raw.astype(np.float32)
    scales = row_scales(raw)
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(scales[:2], [4, 1])
    scaled = raw / scales[:, None]
    sizes = np.abs(scaled).max(axis=1)[[0, 2, 3, 4]]
    assert (sizes >= 1).all()
    assert (sizes < 2).all()
    np.testing.assert_array_equal(scaled * scales[:, None], raw)


def test_labels_become_runs():
    assert label_runs(["a", "a", "b", "c", "c"]) == (
        LabelRun("a", 2),
        LabelRun("b", 1),
        LabelRun("c", 2),
    )
    assert label_runs([]) == ()


def test_rows_know_their_label_and_grad_weights(bank):
    assert bank.row_labels() == ["größe", "größe", "鳥"]
    np.testing.assert_array_equal(bank.row_grad_weights()[1], [1, -0.5, 0])
    assert (bank.rows, bank.embedding_size, bank.channels) == (3, 2, 3)


def test_a_saved_bank_is_the_same_bank(bank, tmp_path):
    bank.save(tmp_path / "sub" / "bank.safetensors")
    again = Bank.load(tmp_path / "sub" / "bank.safetensors")
    assert again.sha256() == bank.sha256()
    assert again.labels == bank.labels
    assert (again.objective, again.network_sha256) == (bank.objective, bank.network_sha256)
    np.testing.assert_array_equal(again.embeddings, bank.embeddings)
    assert [entry.name for entry in (tmp_path / "sub").iterdir()] == ["bank.safetensors"]


@pytest.mark.parametrize("rule", ["transferred", "own"])
def test_what_the_grad_weights_belong_to_is_saved(rule, bank, tmp_path):
    mean = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
    summed = replace(bank, summands="attention", rule=rule, mean_summands=mean)
    summed.save(tmp_path / "bank.safetensors")
    again = Bank.load(tmp_path / "bank.safetensors")
    assert (again.summands, again.rule) == ("attention", rule)
    np.testing.assert_array_equal(again.mean_summands, mean)
    assert again.sha256() == summed.sha256() != bank.sha256()
    # Sums in another order differ in the last digit.
    assert replace(summed, mean_summands=None).sha256() == summed.sha256()
    bank.save(tmp_path / "before.safetensors")
    before = Bank.load(tmp_path / "before.safetensors")
    assert (before.summands, before.rule, before.mean_summands) == (None, "transferred", None)


def test_a_mean_that_is_not_finite_is_refused(bank):
    with pytest.raises(FoldcamError, match="mean summands hold values that are not finite"):
        replace(bank, mean_summands=np.full((3, 2, 2), np.nan, np.float32))


def test_the_hash_changes_with_every_part(bank):
    def changed(**parts):
        return Bank(**{**vars(bank), **parts}).sha256()

    hashes = {
        bank.sha256(),
        changed(embeddings=bank.embeddings[:, ::-1]),
        changed(grad_weights=bank.grad_weights * np.float32(0.5)),
        changed(grad_index=np.array([0, 1, 1], np.int32)),
        changed(labels=(LabelRun("größe", 1), LabelRun("鳥", 2))),
        changed(summands="none"),
        changed(summands="pool"),
        changed(summands="pool", rule="own"),
    }
    assert len(hashes) == 8


@pytest.mark.parametrize(
    ("part", "value", "sentence"),
    [
        ("embeddings", np.float32(1), "needs embeddings"),
        ("embeddings", np.zeros((0, 2), np.float32), "needs embeddings"),
        ("embeddings", np.full((3, 2), np.nan, np.float32), "not finite"),
        ("grad_weights", np.full((2, 3), np.inf, np.float32), "not finite"),
        ("grad_weights", np.zeros(3, np.float32), "needs embeddings"),
        ("grad_weights", np.zeros((0, 3), np.float32), "outside"),
        ("grad_index", np.array([0, 1], np.int32), "index"),
        ("grad_index", np.array([0, 1, 2], np.int32), "outside"),
        ("grad_index", np.array([0, -1, 1], np.int32), "outside"),
        ("labels", (LabelRun("a", 4),), "3 rows and labels for 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, value, sentence, bank):
    with pytest.raises(FoldcamError, match=sentence):
        Bank(**{**vars(bank), part: value})


@pytest.mark.parametrize("length", [0, 4, 9, 100, -1])
def test_a_cut_off_file_is_refused(length, bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FoldcamError, match="not a bank, or it is damaged"):
        Bank.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FoldcamError, match="does not exist"):
        Bank.load(tmp_path / "none.safetensors")
    with pytest.raises(FoldcamError, match="not a bank"):
        Bank.load(tmp_path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "net.safetensors")
    with pytest.raises(FoldcamError, match="not a bank: make one"):
        Bank.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "header"),
        ("{}", "schema_version"),
        ('{"schema_version": 99}', "build the bank again"),
        ('{"schema_version": 1, "labels": [["a", -3]]}', "labels"),
        ('{"schema_version": 1, "labels": [["a", 3]]}', "objective"),
    ],
)
def test_a_doctored_header_is_refused_in_one_sentence(header, sentence, bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    save_file(load_file(path), path, metadata={"foldcam.bank": header})
    with pytest.raises(FoldcamError, match=sentence):
        Bank.load(path)


def test_labels_that_count_other_rows_are_refused(bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    bank.save(path)
    header = {
        "schema_version": 1,
        "labels": [["a", 30]],
        "objective": "x",
        "channel_rule": "all",
        "compression": "none",
        "network_sha256": "",
    }
    save_file(load_file(path), path, metadata={"foldcam.bank": json.dumps(header)})
    with pytest.raises(FoldcamError, match="3 rows and labels for 30"):
        Bank.load(path)


@pytest.fixture
def priced(bank):
    values = np.log(np.array([1, 2, 8], np.float32))
    return Bank(**{**vars(bank), "labels": (), "outcome": BankOutcome(values, 0.1, "log")})


def test_a_saved_bank_of_values_is_the_same_bank(priced, tmp_path):
    priced.save(tmp_path / "bank.safetensors")
    again = Bank.load(tmp_path / "bank.safetensors")
    assert again.sha256() == priced.sha256()
    assert (again.outcome.tau, again.outcome.transform) == (0.1, "log")
    np.testing.assert_array_equal(again.outcome.values, priced.outcome.values)
    assert again.labels == ()
    assert again.row_labels() == []


def test_the_outcome_is_summed_up_in_the_values_own_unit(priced):
    found = priced.outcome.summary()
    assert (found.tau, found.transform) == (0.1, "log")
    np.testing.assert_allclose([found.low, found.median, found.high], [1, 2, 8], rtol=1e-6)
    plain = BankOutcome(np.array([-4, 3, 1], np.float32), 1.0, "none").summary()
    assert plain == Outcome(1.0, "none", -4.0, 1.0, 3.0)


def test_the_hash_of_values_changes_with_every_part(bank, priced):
    values = priced.outcome.values
    outcomes = [
        priced.outcome,
        BankOutcome(values + 1, 0.1, "log"),
        BankOutcome(values, 0.2, "log"),
        BankOutcome(values, 0.1, "none"),
    ]
    hashes = {Bank(**{**vars(priced), "outcome": outcome}).sha256() for outcome in outcomes}
    assert len(hashes | {bank.sha256()}) == 5


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (BankOutcome(np.zeros(2, np.float32), 0.1, "none"), "one value per row"),
        (BankOutcome(np.zeros((3, 1), np.float32), 0.1, "none"), "one value per row"),
        (BankOutcome(np.full(3, np.inf, np.float32), 0.1, "none"), "values that are not finite"),
        (BankOutcome(np.zeros(3, np.float32), 0.0, "none"), "tau is 0"),
        (BankOutcome(np.zeros(3, np.float32), float("nan"), "none"), "tau is nan"),
    ],
)
def test_values_that_do_not_fit_are_refused(outcome, sentence, priced):
    with pytest.raises(FoldcamError, match=sentence):
        Bank(**{**vars(priced), "outcome": outcome})


def test_labels_beside_values_are_refused(bank, priced):
    with pytest.raises(FoldcamError, match="no labels"):
        Bank(**{**vars(priced), "labels": bank.labels})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"outcome": {"tau": 0.1}}, "transform is missing"),
        ({"outcome": {"tau": "x", "transform": "log"}}, "tau is a string"),
        ({"outcome": {"tau": 0.1, "transform": "sqrt"}}, "'sqrt' where one of none, log"),
        ({"outcome": 7}, "outcome is an integer where an object"),
    ],
)
def test_a_doctored_outcome_is_refused(change, sentence, priced, tmp_path):
    path = tmp_path / "bank.safetensors"
    priced.save(path)
    header = {"schema_version": 1, "labels": [], "objective": "k", "channel_rule": "all",
              "compression": "none", "network_sha256": "", **change}  # fmt: skip
    save_file(load_file(path), path, metadata={"foldcam.bank": json.dumps(header)})
    with pytest.raises(FoldcamError, match=sentence):
        Bank.load(path)


def test_an_outcome_without_its_values_is_refused(bank, priced, tmp_path):
    path = tmp_path / "bank.safetensors"
    priced.save(path)
    arrays = load_file(path)
    del arrays["values"]
    header = {"schema_version": 1, "labels": [], "objective": "k", "channel_rule": "all",
              "compression": "none", "network_sha256": "",
              "outcome": {"tau": 0.1, "transform": "log"}}  # fmt: skip
    save_file(arrays, path, metadata={"foldcam.bank": json.dumps(header)})
    with pytest.raises(FoldcamError, match="values are missing"):
        Bank.load(path)
