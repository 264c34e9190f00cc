"""The bank's rows, and its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.bank import Bank, label_runs, scaled_to_unit_maximum
from runtime.contract import LabelRun
from runtime.errors import FoldcamError


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


def test_rows_are_scaled_to_a_greatest_magnitude_of_one():
    raw = np.array([[2, -4, 1], [0, 0, 0], [1e-30, -5e-31, 0], [1e-44, 0, 0], [3e38, 1e38, 0]])
    scaled = scaled_to_unit_maximum(raw.astype(np.float32))
    np.testing.assert_allclose(scaled[:3], [[0.5, -1, 0.25], [0, 0, 0], [1, -0.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(np.abs(scaled).max(axis=1), [1, 0, 1, 1, 1])
    assert scaled.dtype == np.float32


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


def test_the_hash_changes_with_every_part(bank):
    def changed(**parts):
        return Bank(**{**vars(bank), **parts}).sha256()

    hashes = {
        bank.sha256(),
        changed(embeddings=bank.embeddings[:, ::-1]),
        changed(grad_weights=bank.grad_weights * np.float32(0.5)),
        changed(grad_index=np.array([0, 1, 1], np.int32)),
        changed(labels=(LabelRun("größe", 1), LabelRun("鳥", 2))),
    }
    assert len(hashes) == 5


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
