"""One understanding of splits, for folders, CSV and CUB."""

from __future__ import annotations

import pytest

from foldcam.export.datasets import load_dataset
from foldcam.export.datasets.splits import part_named
from foldcam.runtime.system.errors import FoldcamError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def labels(dataset):
    return sorted(sample.label for sample in dataset.samples)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("train", "train"), (" Training ", "train"), ("TRAIN", "train"), ("val", "valid"),
        ("Valid", "valid"), ("validation", "valid"), ("dev", "valid"), ("test", "test"),
        ("Testing", "test"), ("trainer", None), ("", None), ("owl", None),
    ],
)  # fmt: skip
def test_splits_have_names_in_any_case_with_blanks_around_them(text, part):
    assert part_named(text) == part


@pytest.mark.parametrize("stray", ["__MACOSX", "@eaDir", ".thumbnails", "#recycle"])
def test_folders_of_the_system_beside_splits_are_no_labels(stray, tmp_path):
    touch(tmp_path, "Train/owl/1.jpg", "valid/owl/2.jpg", "Testing/gull/3.jpg")
    touch(tmp_path, f"{stray}/Train/owl/4.jpg", "README.roboflow.txt")
    data = load_dataset(tmp_path)
    assert labels(data) == ["owl"]
    assert [s.path.name for s in load_dataset(tmp_path, "valid").samples] == ["2.jpg"]
    assert labels(load_dataset(tmp_path, "test")) == ["gull"]
    assert stray in {item.path.name for item in data.left_out}


def test_one_line_says_which_folders_were_splits_and_which_labels_were_taken(tmp_path):
    touch(tmp_path, "train/owl/1.jpg", "train/owl/2.jpg", "train/gull/3.jpg", "test/owl/4.jpg")
    (note,) = load_dataset(tmp_path).notes
    assert note == (
        "train/ (2 labels, 3 images), test/ (1 label, 1 image) are splits, of which train was "
        "taken; labels: 'gull' (1 image), 'owl' (2 images)."
    )


def test_without_a_test_part_the_validation_part_is_the_test(tmp_path):
    touch(tmp_path, "train/owl/1.jpg", "val/owl/2.jpg")
    data = load_dataset(tmp_path, "test")
    assert [sample.path.name for sample in data.samples] == ["2.jpg"]
    assert "valid was taken, since there is no test part" in data.notes[0]


def test_a_class_that_happens_to_be_called_test_is_a_class_and_that_is_said(tmp_path):
    touch(tmp_path, "test/1.jpg", "owl/2.jpg", "gull/3.jpg")
    data = load_dataset(tmp_path)
    assert labels(data) == ["gull", "owl", "test"]
    assert any("test/ lies beside gull/, owl/ and was taken for a label" in n for n in data.notes)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    touch(tmp_path, "test/owl/1.jpg", "valid/owl/2.jpg")
    with pytest.raises(FoldcamError, match=r"'train': it has valid/ \(1 label, 1 image\), test/"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("words", [("train", "test"), (" train", "Test "), ("Training", "TESTING")])
def test_a_csv_names_its_splits_in_any_of_the_words(words, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        f"path, label, split\n1.jpg, owl, {words[0]}\n2.jpg, owl, {words[0]}\n"
        f"3.jpg, gull, {words[1]}\n"
    )
    assert labels(load_dataset(path)) == ["owl", "owl"]
    assert labels(load_dataset(path, "test")) == ["gull"]
    assert labels(load_dataset(path, "all")) == ["gull", "owl", "owl"]


def test_a_split_that_no_word_names_is_refused_with_its_line_and_value(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,label,split\n1.jpg,owl,train\n2.jpg,owl,holdout\n")
    with pytest.raises(FoldcamError, match=r"list.csv, line 3: the split 'holdout' is not known"):
        load_dataset(path)


def test_rows_without_a_split_beside_others_are_counted(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,label,split\n1.jpg,owl,train\n2.jpg,owl,\n")
    (note,) = load_dataset(path).notes
    assert "1 image without a split, which belong to every part" in note
