"""The metadata document: it survives the round trip, and hostile ones are named."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldcam.runtime.contract.bank_storage import BankStorage
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import (
    BankSummary,
    Contract,
    LabelRun,
    Origin,
    Outcome,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
TEXT = st.text(max_size=12)
SIZES = st.integers(1, 4096)
SHARES = st.floats(-2, 2, allow_nan=False)
SPREADS = st.floats(0.01, 4)


@st.composite
def storages(draw: st.DrawFn, rows: int, channels: int) -> BankStorage:
    lists = draw(st.integers(0, rows))
    return BankStorage(
        search="lists" if lists else "exhaustive",
        lists=lists,
        list_rows=draw(st.integers(-(-rows // lists), rows)) if lists else 0,
        probes=draw(st.integers(1, lists)) if lists else 0,
        embeddings=draw(st.sampled_from(["float32", "float16", "int8"])),
        grad_weights=draw(st.sampled_from(["float32", "float16"])),
        rank=draw(st.integers(0, channels)),
        sha256=draw(TEXT),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    labels = draw(st.lists(st.builds(LabelRun, TEXT, st.integers(1, 99)), min_size=1, max_size=5))
    rows = sum(run.count for run in labels)
    outcome = None
    if draw(st.booleans()):
        labels = []
        low, median, high = sorted(draw(st.tuples(SPREADS, SPREADS, SPREADS)))
        outcome = Outcome(draw(SPREADS), draw(st.sampled_from(["none", "log"])), low, median, high)
    channels = draw(SIZES)
    bank = BankSummary(rows, draw(SIZES), channels, rows, *(draw(TEXT) for _ in range(4)))
    if draw(st.booleans()):
        bank = dataclasses.replace(bank, storage=draw(storages(rows, channels)))
    input_type = draw(st.sampled_from(["float32", "uint8"]))
    frames = st.tuples(st.integers(1, 16384), st.integers(1, 16384))
    return Contract(
        preprocessing=Preprocessing(
            draw(SIZES),
            draw(SIZES),
            draw(st.sampled_from(["stretch", "crop", "letterbox"])),
            draw(st.sampled_from(["rgb", "bgr"])),
            draw(st.tuples(SHARES, SHARES, SHARES)),
            draw(st.tuples(SPREADS, SPREADS, SPREADS)),
        ),
        input_type=input_type,
        layer=draw(TEXT),
        feature_map=draw(st.tuples(SIZES, SIZES, SIZES)),
        normalized=draw(st.booleans()),
        heatmap_size=draw(st.tuples(SIZES, SIZES)),
        transfer=draw(st.integers(1, rows)),
        neighbors=draw(st.integers(1, rows)),
        bank=bank,
        labels=tuple(labels),
        origin=Origin(*(draw(TEXT) for _ in range(6))),
        versions=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        outcome=outcome,
        frame=draw(st.none() | frames) if input_type == "uint8" else None,
    )


@settings(max_examples=60, deadline=None)
@given(contracts())
def test_round_trip(contract):
    assert parse_contract(contract.to_json(), "x") == contract


def test_label_of_every_row(contract_with):
    base = contract_with()
    bank = dataclasses.replace(base.bank, rows=6)
    contract = contract_with(
        bank=bank, labels=(LabelRun("a", 1), LabelRun("b", 3), LabelRun("c", 2))
    )
    assert [contract.label_of(row) for row in range(6)] == list("abbbcc")
    for row in (-1, 6):
        with pytest.raises(IndexError):
            contract.label_of(row)


def document() -> dict:
    """A small valid document."""
    contract = Contract(
        preprocessing=Preprocessing(8, 8),
        input_type="float32",
        layer="quarters",
        feature_map=(3, 2, 2),
        normalized=False,
        heatmap_size=(2, 2),
        transfer=1,
        neighbors=2,
        bank=BankSummary(3, 3, 3, 3, "a", "all", "none", ""),
        labels=(LabelRun("a", 3),),
        origin=Origin("n", "", "", "d", "", ""),
    )
    return json.loads(contract.to_json())


def test_a_frame_needs_bytes_and_a_size_that_is_possible():
    whole = {**document(), "input_type": "uint8"}
    assert parse_contract(json.dumps({**whole, "frame": [1280, 720]}), "x").frame == (1280, 720)
    assert parse_contract(json.dumps(whole), "x").frame is None
    for frame in ([0, 720], [1280, 16385], [1280], "1280x720", [1280.5, 720]):
        with pytest.raises(FoldcamError, match="frame"):
            parse_contract(json.dumps({**whole, "frame": frame}), "x")
    with pytest.raises(FoldcamError, match="although input_type is not uint8"):
        parse_contract(json.dumps({**document(), "frame": [1280, 720]}), "x")


def replaced(document: dict, path: str, value: object) -> str:
    *parents, last = path.split(".")
    inner = document
    for name in parents:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document)


OUTCOME = {"tau": 0.1, "transform": "log", "low": 1.0, "median": 2.0, "high": 5.0}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bank", ..., "bank is missing"),
        ("bank", 3, "bank is an integer where an object"),
        ("bank.rows", 0, r"bank\.rows is 0 where at least 1"),
        ("bank.rows", 99, "labels count 3 rows and bank.rows says 99"),
        ("preprocessing.std", [1, 0, 1], "std must not be zero"),
        ("preprocessing.std", [1, 1], "std has 2 values where 3"),
        ("preprocessing.mean", [1, "x", 1], r"preprocessing\.mean\[1\] is a string"),
        ("preprocessing.mean", [1, 10**400, 1], r"mean\[1\] is too large"),
        ("preprocessing.width", 10**9, "width is 1000000000 where at most 16384"),
        ("preprocessing.resize", "squash", "'squash' where one of stretch"),
        ("input_type", "float64", "float32, uint8"),
        ("neighbors", 4, "neighbors is 4, outside 1 to 3"),
        ("neighbors", True, "neighbors is true or false where an integer"),
        ("labels", [["a", -1]], r"labels\[0\]\[1\] is -1 where at least 1"),
        ("labels", [[1, "a"]], r"labels\[0\]\[0\] is an integer where a string"),
        ("schema_version", 99, "schema version 99"),
        ("versions", {"a": 1}, r"versions\.a is an integer"),
        ("heatmap_size", [2, 10**30], "a huge integer"),
        ("feature_map", None, "feature_map is null"),
        ("outcome", 3, "outcome is an integer where an object"),
        ("outcome", {"tau": 0.1}, "transform is missing"),
        ("outcome", OUTCOME, "labels are not empty although the outcome is continuous"),
        ("labels", [], "labels count 0 rows and bank.rows says 3"),
    ],
)
def test_wrong_value_is_named(path, value, message):
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_contract(replaced(document(), path, value), "m.onnx")
    assert str(caught.value).startswith("m.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tau", 0, "tau is 0 where more than 0"),
        ("tau", -0.1, "tau is -0.1"),
        ("tau", True, "tau is true or false where a number"),
        ("tau", float("nan"), "tau is not finite"),
        ("tau", 10**400, "tau is too large"),
        ("transform", "sqrt", "'sqrt' where one of none, log"),
        ("transform", 1, "transform is an integer where one of none, log"),
        ("low", "x", "low is a string"),
        ("low", 3.0, "median is 2, which does not lie between low and high"),
        ("high", 1.5, "median is 2, which does not lie between low and high"),
        ("low", 0.0, "low is 0, which has no logarithm"),
        ("high", ..., "high is missing"),
    ],
)
def test_wrong_outcome_is_named(key, value, message):
    whole = {**document(), "labels": [], "outcome": dict(OUTCOME)}
    assert parse_contract(json.dumps(whole), "m.onnx").outcome == Outcome(**OUTCOME)
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_contract(replaced(whole, f"outcome.{key}", value), "m.onnx")
    assert str(caught.value).startswith("m.onnx: foldcam metadata: outcome.")


STORAGE = {
    **{"search": "lists", "lists": 2, "list_rows": 2, "probes": 1, "embeddings": "int8"},
    **{"grad_weights": "float16", "rank": 2, "sha256": "0"},
}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("search", "tree", "'tree' where one of exhaustive, lists"),
        ("search", "exhaustive", "lists is 2, which does not agree with the search 'exhaustive'"),
        ("lists", 0, "lists is 0, which does not agree with the search 'lists'"),
        ("lists", 4, "lists is 4, outside 0 to 3"),
        ("list_rows", 1, "list_rows is 1: 2 lists have no room for 3 rows"),
        ("list_rows", 4, "list_rows is 4, outside"),
        ("probes", 0, "probes is 0, outside 1 to 2"),
        ("probes", 3, "probes is 3, outside 1 to 2"),
        ("embeddings", "int4", "'int4' where one of float32, float16, int8"),
        ("rank", 9, "rank is 9, outside 0 to 3"),
        ("sha256", ..., "sha256 is missing"),
    ],
)
def test_wrong_storage_is_named(key, value, message):
    whole = document()
    whole["bank"]["storage"] = dict(STORAGE)
    assert parse_contract(json.dumps(whole), "m").bank.storage == BankStorage(**STORAGE)
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_contract(replaced(whole, f"bank.storage.{key}", value), "m.onnx")
    assert str(caught.value).startswith("m.onnx: foldcam metadata: bank.storage.")


def test_a_document_without_storage_is_one_of_plain_rows():
    assert parse_contract(json.dumps(document()), "m.onnx").bank.storage is None
    assert "storage" not in document()["bank"]


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(["storage", *(f"storage.{key}" for key in STORAGE)]), value=JSON)
def test_hostile_storage_raises_nothing_else(path, value):
    with suppress(FoldcamError):
        whole = document()
        whole["bank"]["storage"] = dict(STORAGE)
        parse_contract(replaced(whole, f"bank.{path}", value), "m.onnx")


def test_a_document_without_an_outcome_is_one_of_labels():
    assert parse_contract(json.dumps(document()), "m.onnx").outcome is None
    assert "outcome" not in document()


def test_rows_of_a_continuous_outcome_have_no_labels(outcome_with):
    with pytest.raises(IndexError):
        outcome_with().label_of(0)


PATHS = [
    "schema_version", "preprocessing", "preprocessing.width", "preprocessing.mean", "bank",
    "bank.rows", "bank.grad_weight_rows", "labels", "feature_map", "heatmap_size", "transfer",
    "neighbors", "origin", "origin.data", "versions", "input_type", "layer", "normalized",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(PATHS), value=JSON)
def test_hostile_values_raise_nothing_else(path, value):
    with suppress(FoldcamError):
        parse_contract(replaced(document(), path, value), "m.onnx")


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(["outcome", *(f"outcome.{key}" for key in OUTCOME)]), value=JSON)
def test_hostile_outcomes_raise_nothing_else(path, value):
    with suppress(FoldcamError):
        whole = {**document(), "labels": [], "outcome": dict(OUTCOME)}
        parse_contract(replaced(whole, path, value), "m.onnx")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | JSON.map(json.dumps))
def test_hostile_documents_raise_nothing_else(text):
    with pytest.raises(FoldcamError):
        parse_contract(text, "m.onnx")


def test_deep_nesting_is_refused():
    with pytest.raises(FoldcamError):
        parse_contract("[" * 100_000, "m.onnx")
