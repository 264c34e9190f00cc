"""Names of classes in the files in which they are handed around."""

from __future__ import annotations

import pytest

from foldcam.export.exporting.classifier_exporter import class_names, read_class_names
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "tench\ngreat white shark\ncock\n"),
        ("labels.txt", "\ufefftench\r\ngreat white shark\r\ncock\r\n\r\n"),
        ("labels.json", '["tench", "great white shark", "cock"]'),
        ("index.json", '{"0": "tench", "2": "cock", "1": "great white shark"}'),
        (
            "index.json",
            '{"0": ["n1", "tench"], "1": ["n2", "great white shark"], "2": ["n", "cock"]}',
        ),
    ],
)
def test_every_form_gives_the_names_in_the_order_of_their_classes(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    assert read_class_names(path) == ["tench", "great white shark", "cock"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no class"),
        ("a\n\nb\n", "class 1 has no name"),
        ('{"0": "a", "2": "b"}', "none for class '1'"),
        ('["a", 7]', "the name of class 1 is not text"),
        ('["a", ', "is not JSON"),
    ],
)
def test_a_file_that_names_no_classes_is_refused(tmp_path, text, reason):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    with pytest.raises(FoldcamError, match=reason) as caught:
        read_class_names(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(FoldcamError, match="No such file"):
        read_class_names(tmp_path / "none.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FoldcamError, match="UTF-8"):
        read_class_names(tmp_path / "x.txt")


def test_another_count_is_said_with_both_numbers(tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(FoldcamError, match="names 2 classes, and the network has 3 scores"):
        class_names(tmp_path / "labels.txt", 3)


def test_without_a_file_classes_are_numbered():
    assert class_names(None, 3) == ["0", "1", "2"]
