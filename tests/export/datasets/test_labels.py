"""Labels that people take for one."""

from __future__ import annotations

import unicodedata

import pytest

from foldcam.export.datasets import load_dataset
from foldcam.export.datasets.labels import plain, twins


def csv(root, *names):
    path = root / "list.csv"
    rows = "".join(f'{n}.jpg,"{name}"\n' for n, name in enumerate(names))
    path.write_text(f"path,label\n{rows}", encoding="utf-8")
    return path


@pytest.mark.parametrize("label", [unicodedata.normalize("NFD", "Müller"), "Müller ", " Müller"])
def test_labels_that_look_the_same_are_one_and_that_is_said(label, tmp_path):
    for name in ("Müller", label):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.jpg").write_bytes(b"x")
    data = load_dataset(tmp_path / "data")
    assert {sample.label for sample in data.samples} == {"Müller"}
    (note,) = data.notes
    assert note.startswith("Labels that differ only by blanks or by their Unicode form")
    assert ascii(label) in note


def test_blanks_within_a_label_are_one_blank(tmp_path):
    data = load_dataset(csv(tmp_path, "red kite", "red  kite", "red\u00a0kite"))
    assert {sample.label for sample in data.samples} == {"red kite"}
    assert plain(" a \u3000 b ") == "a b"


def test_labels_that_differ_by_case_stay_two_and_that_is_said(tmp_path):
    data = load_dataset(csv(tmp_path, "Owl", "owl", "owl", "gull"))
    assert {sample.label for sample in data.samples} == {"Owl", "owl", "gull"}
    (note,) = data.notes
    assert "'Owl' (1) and 'owl' (2)" in note


def test_invisible_characters_are_noticed():
    assert "'ow\\u200bl' (1)" in twins(["owl", "ow\u200bl"])[0]
    assert twins(["owl", "gull", "Eule"]) == []


def test_numbers_are_not_compared_as_words(tmp_path):
    data = load_dataset(csv(tmp_path, "1e3", "1E3"), continuous=True)
    assert data.notes == ()
