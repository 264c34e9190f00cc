"""Metadata made to break the reader: refused by name, in no time; and any text survives."""

from __future__ import annotations

import dataclasses
import json
import math
import unicodedata

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from foldcam.runtime.contract import schema as contract_module
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import (
    MAX_LABEL_RUNS,
    METADATA_KEY,
    BankSummary,
    Contract,
    LabelRun,
    Origin,
    Outcome,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

LONE = "name \udcff\ud800 of bytes"
TEXTS = [
    "喜鹊 🐦‍⬛ magpie",
    "שלום \u202eabc\u202c",
    "e\u0301\u0302\u0303",
    "nul \0 inside",
    "two\nlines\r\n\ttab",
    '"quoted" \\ back',
    LONE,
    "x" * 1_000_000,
    "",
    "\ufeff\uffff\U0010ffff",
]


LABELS = Contract(
    preprocessing=Preprocessing(8, 8),
    input_type="float32",
    layer="quarters",
    feature_map=(3, 2, 2),
    normalized=False,
    heatmap_size=(2, 2),
    transfer=1,
    neighbors=2,
    bank=BankSummary(3, 3, 3, 3, "a", "all", "none", ""),
    labels=(LabelRun("a", 1), LabelRun("b", 2)),
    origin=Origin("n", "", "", "d", "", ""),
    versions={"onnx": "1"},
)
PRICES = dataclasses.replace(LABELS, labels=(), outcome=Outcome(0.1, "log", 1.0, 2.0, 5.0))


@pytest.fixture
def whole():
    """A valid document."""
    return json.loads(LABELS.to_json())


def _places(document, path=()):
    """Every place of the document: objects, lists and values."""
    yield path
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inner:
        if isinstance(value, (dict, list)):
            yield from _places(value, (*path, key))
        else:
            yield (*path, key)


WILD = st.recursive(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            1,
            -1,
            3,
            2**31,
            2**63,
            10**400,
            1.5,
            -0.0,
            1e308,
            5e-324,
            math.nan,
            math.inf,
            -math.inf,
            "",
            "fp16",
            "uint8",
            LONE,
            "k" * 5000,
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def _mutated(document, data):
    """The document with some places replaced, removed, doubled or with a new neighbor."""
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(_places(document))))
        if not path:
            continue
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        what = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "replace":
            parent[path[-1]] = data.draw(WILD)
        elif what == "remove":
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.insert(path[-1], data.draw(WILD))
        else:
            parent[data.draw(st.text(max_size=4))] = data.draw(WILD)
    return json.dumps(document)


# Controls, lone surrogates, ends of lines; and what makes a line read as another.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@settings(max_examples=600, deadline=None)
@given(data=st.data(), continuous=st.booleans())
def test_a_document_changed_anywhere_is_read_or_refused_by_name(data, continuous):
    document = json.loads((PRICES if continuous else LABELS).to_json())
    text = _mutated(document, data)
    try:
        made = parse_contract(text, "m.onnx")
    except FoldcamError as error:
        message = str(error)
        assert message.startswith("m.onnx: ")
        assert "metadata" in message
        assert len(message) < 400
        assert not UNPRINTABLE & {unicodedata.category(each) for each in message}
        assert not BIDIRECTIONAL & set(message)
    else:
        assert isinstance(made, Contract)
        assert parse_contract(made.to_json(), "m.onnx") == made


MANY = "more than 524288 labels, or as many other values"


# What is appended to the document: an opening, something many times, an end.
@pytest.mark.parametrize(
    ("start", "unit", "times", "end", "message"),
    [
        ('"layer":"', "other", 1, '"}', "an object has two values for 'layer'"),
        ('"x":{"k":1,"', "k", 1, '":2}}', "an object has two values for 'k'"),
        ('"x":{"1":1,"1":1,"', "k", 5000, '":2}}', "an object has two values for '1'"),
        ('"x":', "9", 5000, "}", "an integer has 5000 digits"),
        ('"x":', "[", 100_000, "", "nested too deeply"),
        ('"x":', '{"a":', 100_000, "", "nested too deeply"),
        ('"x":[', "1,", 3_000_000, "1]}", MANY),
        ('"x":[', "[],", 2_000_000, "1]}", MANY),
        ('"x":{', '"a":1,', 2_000_000, '"b":1}}', MANY),
        ('"x":"', "x", 65 << 20, '"}', "is 65 MiB, more than the 64 MiB allowed"),
        ('"x":"', "é", 33 << 20, '"}', "is 66 MiB, more than the 64 MiB allowed"),
    ],
)
def test_a_document_that_costs_too_much_is_refused(start, unit, times, end, message, whole):
    text = f"{json.dumps(whole)[:-1]},{start}{unit * times}{end}"
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_contract(text, "m.onnx")
    assert len(str(caught.value)) < 300


def test_more_labels_than_allowed_are_refused_by_name(whole):
    whole["labels"] = [["a", 1]] * (MAX_LABEL_RUNS + 1)
    text = json.dumps(whole, separators=(",", ":"))
    with pytest.raises(FoldcamError, match=r"labels has 524289 values|more than 524288 labels"):
        parse_contract(text, "m.onnx")


def test_a_model_that_could_not_be_read_is_not_written(contract_with, monkeypatch):
    made = contract_with()
    monkeypatch.setattr(contract_module, "MAX_METADATA_BYTES", 100)
    with pytest.raises(FoldcamError, match="fewer or shorter labels"):
        made.to_json()


def test_a_number_that_json_has_not_is_not_written(contract_with):
    recipe = contract_with().preprocessing
    broken = dataclasses.replace(recipe, mean=(float("nan"), 0, 0))
    with pytest.raises(FoldcamError, match="cannot be written"):
        contract_with(preprocessing=broken).to_json()


def test_hostile_keys_are_cut_and_made_printable(whole):
    whole["versions"] = {"\x1b[2J" + "k" * 100_000: 1}
    with pytest.raises(FoldcamError, match=r"x1b.*\.\.\. is an integer where a string") as caught:
        parse_contract(json.dumps(whole), "m.onnx")
    assert len(str(caught.value)) < 300


def test_a_million_versions_are_refused(whole):
    whole["versions"] = {str(n): "1" for n in range(1001)}
    with pytest.raises(FoldcamError, match="versions has 1001 entries where at most 1000"):
        parse_contract(json.dumps(whole), "m.onnx")


@pytest.mark.parametrize("version", [0, 2, 10**12])
def test_another_schema_version_is_refused_before_anything_else(version):
    text = json.dumps({"schema_version": version, "bank": "of another kind"})
    with pytest.raises(FoldcamError, match=f"schema version {version} and this foldcam reads 1"):
        parse_contract(text, "m.onnx")


@pytest.mark.parametrize(("value", "read"), [(..., "fp32"), ("fp32", "fp32"), ("fp16", "fp16")])
def test_files_of_before_there_was_a_choice_are_float32(value, read, whole):
    del whole["precision"]
    if value is not ...:
        whole["precision"] = value
    assert parse_contract(json.dumps(whole), "m.onnx").precision == read


@pytest.mark.parametrize("value", ["int4", None, 16])
def test_an_unknown_precision_is_refused(value, whole):
    whole["precision"] = value
    with pytest.raises(FoldcamError, match="metadata: precision is"):
        parse_contract(json.dumps(whole), "m.onnx")


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_file(text, contract_with, tiny_model, tmp_path):
    """Through protocol buffers, which hold UTF-8 alone."""
    made = contract_with(labels=(LabelRun(text, 3),), layer=text, versions={text: text})
    model = onnx.load(tiny_model)
    (entry,) = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    entry.value = made.to_json()
    onnx.save(model, tmp_path / "m.onnx")
    read = read_contract(tmp_path / "m.onnx")
    assert read == made
    assert read.label_of(2) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=8))
@example(LONE)
def test_every_character_survives_the_document(text):
    # Two halves of one character are that character.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    made = dataclasses.replace(LABELS, labels=(LabelRun(text, 3),))
    made.to_json().encode("utf-8")
    assert parse_contract(made.to_json(), "m.onnx").label_of(0) == text


def test_an_entry_of_100_megabytes_is_refused_by_name(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("foldcam.runtime.contract.onnx_file.MAX_METADATA_BYTES", 1 << 20)
    model = onnx.load(tiny_model)
    model.metadata_props.add(key="other", value="x" * (2 << 20))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(FoldcamError, match="metadata holds an entry of 2 MiB, more than the 1 MiB"):
        read_header(tmp_path / "m.onnx")


def test_a_file_of_endless_entries_is_given_up(tiny_model, tmp_path):
    entry = bytes([14 << 3 | 2, 2, 1 << 3 | 2, 0])
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny_model.read_bytes() + entry * 1000)
    assert METADATA_KEY in read_header(path).metadata
    path.write_bytes(entry * (1 << 21) + tiny_model.read_bytes())
    with pytest.raises(FoldcamError, match="not an ONNX file, or it is damaged"):
        read_header(path)


def test_two_contracts_in_one_file_are_refused(tiny_model, tmp_path):
    model = onnx.load(tiny_model)
    model.metadata_props.add().CopyFrom(model.metadata_props[0])
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(FoldcamError, match="holds two entries 'foldcam'"):
        read_header(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("bank", "embedding_size"), 2**40),
        (("bank", "channels"), 2**52),
        (("bank", "rows"), 2**31),
        (("feature_map", 0), 2**50),
        (("feature_map", 2), 2**30),
        (("heatmap_size", 0), 2**20),
        (("preprocessing", "width"), 2**20),
    ],
)
def test_a_size_that_no_network_has_is_refused_before_arrays_are_made(place, value, whole):
    section, key = place
    whole[section][key] = value
    with pytest.raises(FoldcamError, match=f"{value} where at most "):
        parse_contract(json.dumps(whole), "m.onnx")
