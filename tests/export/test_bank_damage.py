"""Hostile bank files: each is read as a whole and sound bank, or refused in one sentence."""

from __future__ import annotations

import json
import random
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from foldcam.benchmarks.studies.reliability.mutants import mutated_safetensors
from foldcam.export.banks.bank import Bank, BankOutcome, BankSource
from foldcam.export.commands.bank import app
from foldcam.runtime.contract.schema import LabelRun, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

LONE = "\ud800"


def bank(labels=("a", "b"), **changes) -> Bank:
    generator = np.random.default_rng(0)
    given = {
        "embeddings": generator.random((4, 2), np.float32),
        "grad_weights": generator.random((4, 3), np.float32),
        "grad_index": np.arange(4, dtype=np.int32),
        "labels": tuple(LabelRun(name, 2) for name in labels),
        "objective": "all-triplets",
        "network_sha256": "ab" * 32,
        "source": BankSource(
            Origin("net", "", "ab" * 32, "data", "train", "cd" * 32), "layer", Preprocessing(8, 8)
        ),
        "image_hashes": np.arange(128, dtype=np.uint8).reshape(4, 32),
        "names": ("a/1.jpg", "a/ü.jpg", "", "b/3.jpg#1,2,3,4"),
    }
    return Bank(**{**given, **changes})


def parts(path) -> tuple[dict[str, np.ndarray], dict]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return arrays, json.loads(stored.metadata()["foldcam.bank"])


def write(path, arrays, header):
    save_file(arrays, path, metadata={"foldcam.bank": json.dumps(header)})
    return path


@pytest.fixture
def saved(tmp_path):
    bank().save(tmp_path / "a.safetensors")
    return parts(tmp_path / "a.safetensors")


@pytest.fixture
def originals(tmp_path):
    prices = BankOutcome(np.arange(1, 5, dtype=np.float32), 0.1, "log")
    for number, each in enumerate(
        [bank(), bank(compression="rank:2"), bank(labels=(), outcome=prices)]
    ):
        each.save(tmp_path / f"{number}.safetensors")
    return [(tmp_path / f"{number}.safetensors").read_bytes() for number in range(3)]


def test_any_file_is_a_bank_or_refused_in_one_sentence(originals, tmp_path, recwarn):
    path, refused = tmp_path / "x.safetensors", []
    for number in range(400):
        path.write_bytes(mutated_safetensors(random.Random(f"bank:{number}"), originals))
        try:
            held = Bank.load(path)
        except FoldcamError as error:
            refused.append(str(error))
            continue
        assert held.embeddings.dtype == held.grad_weights.dtype == np.float32
        assert held.row_grad_weights().shape == (held.rows, held.channels)
        held.save(tmp_path / "y.safetensors")
        assert Bank.load(tmp_path / "y.safetensors").rows == held.rows
    assert 100 < len(refused) < 380
    assert max(map(len, refused)) < 600
    assert not any("\n" in text for text in refused)
    assert not list(recwarn)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("embeddings", np.ones((4, 2), np.int32), "embeddings are I32 where F16 or F32 or F64"),
        ("embeddings", np.ones(4, np.float32), r"embeddings have the shape \[4\] where \[N, D\]"),
        ("embeddings", np.ones((0, 2), np.float32), "have the shape .* which "),
        ("grad_weights", np.ones((4, 0), np.float32), "which is empty"),
        ("grad_index", np.arange(3, dtype=np.int32), r"grad_index have the shape \[3\].* embedd"),
        ("grad_index", np.array([0, 1, 2, 2**32], np.int64), "point outside the bank"),
        ("grad_index", np.array([0, 1, 2, -1], np.int32), "index points outside"),
        ("image_hashes", np.zeros((4, 31), np.uint8), r"where \[N, 32\]"),
        ("image_hashes", np.zeros((4, 32), np.int8), "are I8 where U8"),
        ("names", np.frombuffer(b"a\0b\0c\0\xff", np.uint8), "names are not UTF-8"),
        ("names", np.frombuffer(b"a\0b\0c", np.uint8), "names are 3 where 4 are needed"),
        ("names", np.frombuffer(b"\0\0\0" + b"x" * 4097, np.uint8), "more than 4096 characters"),
        ("names", np.zeros(1 << 17, np.uint8), "131072 bytes, too many for 4 rows"),
        ("names", np.zeros((4, 8), np.uint8), r"where \[bytes\]"),
        ("names", np.zeros(3, np.int32), "are I32 where U8"),
        ("embeddings", np.full((4, 2), 1e300), "not finite"),
        ("values", np.ones((4, 1), np.float32), r"where \[N\]"),
    ],
)
def test_an_array_of_another_kind_is_refused_by_name(saved, tmp_path, name, array, reason):
    arrays, header = saved
    with pytest.raises(FoldcamError, match=reason):
        Bank.load(write(tmp_path / "x.safetensors", {**arrays, name: array}, header))


def test_a_bank_of_before_has_no_names_and_is_read(saved, tmp_path):
    arrays, header = saved
    assert Bank.load(write(tmp_path / "x.safetensors", arrays, header)).names == bank().names
    del arrays["names"]
    held = Bank.load(write(tmp_path / "y.safetensors", arrays, header))
    assert (held.names, held.row_names()) == (None, ("",) * 4)
    assert held.sha256() == bank().sha256()


def test_a_dtype_that_numpy_has_not_is_refused(originals, tmp_path):
    path = tmp_path / "x.safetensors"
    data = originals[0]
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["embeddings"].update(dtype="F8_E4M3", shape=[4, 8])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(FoldcamError, match="embeddings are F8_E4M3 where"):
        Bank.load(path)


def test_factors_that_do_not_fit_or_make_too_much_are_refused(saved, tmp_path):
    arrays, header = saved
    del arrays["grad_weights"]
    path = tmp_path / "x.safetensors"
    factors = {"grad_rows": np.ones((4, 2), np.float32), "grad_basis": np.ones((3, 3), np.float32)}
    with pytest.raises(FoldcamError, match=r"grad_rows have the shape .* does not fit grad_b"):
        Bank.load(write(path, {**arrays, **factors}, header))
    huge = {
        "grad_rows": np.ones((1 << 16, 1), np.float32),
        "grad_basis": np.ones((1, 1 << 16), np.float32),
    }
    with pytest.raises(FoldcamError, match=r"make grad-weights of 16\.0 GiB, more than the 2"):
        Bank.load(write(path, {**arrays, **huge}, header))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("compression", "rank:abc", "'rank:abc', which is no compression"),
        ("compression", "rank:0", "no compression"),
        ("compression", "rank:3", "no compression of 4 rows of 3"),
        ("compression", "rank:99999999999999999999999", "no compression"),
        ("compression", "zip", "no compression"),
        ("channel_rule", LONE, "channel_rule is"),
        ("labels", [["a", -1], ["b", 5]], r"labels\[0\]\[1\] is -1"),
        ("labels", [["a", 2**53]], r"labels\[0\]\[1\] is a huge integer"),
        ("outcome", {"tau": 1, "transform": "none"}, "values are missing"),
        ("schema_version", 2, "schema_version"),
    ],
)
def test_a_header_that_says_nonsense_is_refused_by_key(saved, tmp_path, key, value, reason):
    arrays, header = saved
    with pytest.raises(FoldcamError, match=reason):
        Bank.load(write(tmp_path / "x.safetensors", arrays, {**header, key: value}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "two values for 'a'"),
        ('{"schema_version": ' + "9" * 4500 + "}", "an integer has 4500 digits"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "a list where an object is needed"),
    ],
)
def test_a_header_that_is_no_document_is_refused(saved, tmp_path, text, reason):
    path = tmp_path / "x.safetensors"
    save_file(saved[0], path, metadata={"foldcam.bank": text})
    with pytest.raises(FoldcamError, match=reason):
        Bank.load(path)


def test_any_text_of_a_bank_is_printed(tmp_path):
    path = tmp_path / "x.safetensors"
    bank(labels=(LONE, "\x1b[2J"), objective=LONE + "\x1b").save(path)
    for more in ([], ["--json"]):
        done = CliRunner().invoke(app, ["bank", "stats", str(path), *more])
        assert done.exit_code == 0, done.exception
        assert "\x1b" not in done.output


def test_banks_of_other_sizes_are_not_merged(tmp_path):
    names = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    bank().save(names[0])
    for other in ({"grad_weights": np.ones((4, 5), np.float32)},
                  {"embeddings": np.ones((4, 7), np.float32)}):  # fmt: skip
        bank(image_hashes=None, **other).save(names[1])
        done = CliRunner().invoke(
            app, ["bank", "merge", *map(str, names), "--out", str(tmp_path / "c.safetensors")]
        )
        assert isinstance(done.exception, FoldcamError), done.exception
        assert "cannot be merged" in str(done.exception)
