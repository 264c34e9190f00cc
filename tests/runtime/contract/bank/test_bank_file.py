"""The bank beside a model: what is written is read, and strangers' files are one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from foldcam.runtime.contract.bank.bank_file import read_bank, write_bank
from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError


def _bank():
    embeddings = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return LiveBank(
        embeddings,
        (LabelRun("anna", 2), LabelRun("猫", 3)),
        ("a/1.jpg", "", "c.png", "d.png", "e.png"),
        np.arange(5 * 32, dtype=np.uint8).reshape(5, 32),
        np.ones((3, 2, 2), np.float32),
        {"network_sha256": "0" * 64, "objective": "all-triplets", "kept": [1, {"as": "it is"}]},
    )


@pytest.fixture
def path(tmp_path):
    write_bank(_bank(), tmp_path / "model.bank")
    return tmp_path / "model.bank"


def test_what_is_written_is_read(path):
    bank, read = _bank(), read_bank(path)
    np.testing.assert_array_equal(read.embeddings, bank.embeddings)
    np.testing.assert_array_equal(read.image_hashes, bank.image_hashes)
    np.testing.assert_array_equal(read.mean_summands, bank.mean_summands)
    assert (read.labels, read.names, read.about) == (bank.labels, bank.names, bank.about)
    assert read.sha256 == bank.sha256


def test_a_bank_without_names_hashes_and_mean_is_read(path):
    bare = replace(_bank(), names=("",) * 5, mean_summands=None)
    write_bank(bare, path)
    read = read_bank(path)
    assert (read.names, read.mean_summands) == (("",) * 5, None)


def _parts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write(path, header, rest):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + rest)


def _changed(part, **changes):
    def change(header):
        header[part].update(changes)

    return change


def _said(**changes):
    def change(header):
        about = json.loads(header["__metadata__"]["foldcam.bank"])
        about.update(changes)
        header["__metadata__"]["foldcam.bank"] = json.dumps(about)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_changed("embeddings", dtype="F64"), "dtype"),
        (_changed("embeddings", shape=[5, "4"]), "shape"),
        (_changed("embeddings", shape=[5, 4, 1]), "shape"),
        (_changed("embeddings", shape=[5, 1 << 60]), "shape"),
        (_changed("embeddings", shape=[-5, -4]), "shape"),
        (_changed("embeddings", data_offsets=[0, 1 << 40]), "data_offsets"),
        (_changed("embeddings", data_offsets=[80, 0]), "embeddings"),
        (_changed("image_hashes", shape=[10, 16]), "a hash for each row"),
        (_changed("names", shape=[1], data_offsets=[0, 1]), "a name for each row"),
        (_said(labels=[["anna", 2], ["anna", 3]]), "an embedding for each row"),
        (_said(labels=[["anna", 2], ["b", 4]]), "an embedding for each row"),
        (_said(labels=[["anna", 5]]), "two labels"),
        (_said(labels=[["anna", 1 << 52], ["b", 1 << 52]]), "an embedding for each row"),
        (_said(labels="anna"), "labels"),
        (_said(network_sha256=7), "network_sha256"),
        (lambda header: header["__metadata__"].update({"foldcam.bank": "{"}), "not JSON"),
        (lambda header: header["__metadata__"].update({"foldcam.bank": "[]"}), "an object"),
        (lambda header: header.pop("__metadata__"), "not a bank"),
        (lambda header: header.pop("embeddings"), "an embedding for each row"),
    ],
)
def test_a_header_that_lies_is_one_sentence(path, change, text):
    header, rest = _parts(path)
    change(header)
    _write(path, header, rest)
    with pytest.raises(FoldcamError, match=text):
        read_bank(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3e38])
def test_embeddings_that_are_no_directions_are_refused(path, value):
    header, rest = _parts(path)
    first = header["embeddings"]["data_offsets"][0]
    wrong = np.float32(value).tobytes()
    _write(path, header, rest[:first] + 4 * wrong + rest[first + 16 :])
    with pytest.raises(FoldcamError, match="not of norm 1"):
        read_bank(path)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 200, -1])
def test_a_file_that_is_cut_is_one_sentence(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FoldcamError, match=r"model\.bank"):
        read_bank(path)


def test_any_damaged_byte_gives_a_bank_or_a_sentence(path):
    data, generator = bytearray(path.read_bytes()), np.random.default_rng(1)
    for _ in range(400):
        damaged = bytearray(data)
        for at in generator.integers(0, len(data), 3):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            bank = read_bank(path)
        except FoldcamError:
            continue
        assert bank.rows == sum(run.count for run in bank.labels) == len(bank.names)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FoldcamError, match="does not exist"):
        read_bank(tmp_path / "none.bank")
    with pytest.raises(FoldcamError):
        read_bank(tmp_path)
