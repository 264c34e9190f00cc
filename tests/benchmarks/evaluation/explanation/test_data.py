"""Which images are the bank and which are measured."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from foldcam.benchmarks.evaluation.explanation.data import read_parts
from foldcam.runtime.system.errors import FoldcamError


def _folder(root: Path, counts: dict[str, int]) -> Path:
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number}.png").touch()
    return root


def test_one_set_is_halved_by_label_and_by_the_seed(tmp_path: Path) -> None:
    images = _folder(tmp_path / "all", {"a": 5, "b": 4})
    parts = read_parts(images)
    assert Counter(s.label for s in parts.training.samples) == {"a": 3, "b": 2}
    assert Counter(s.label for s in parts.testing.samples) == {"a": 2, "b": 2}
    everything = {s.identity for s in parts.training.samples + parts.testing.samples}
    assert len(everything) == 9
    assert parts.notes == (
        "all has no split of its own: a drawn half of each label is the bank, and the other half "
        "is measured.",
    )
    assert read_parts(images).training.samples == parts.training.samples
    assert any(
        read_parts(images, seed=s).training.samples != parts.training.samples for s in (1, 2)
    )


def test_the_data_sets_own_split_is_taken(tmp_path: Path) -> None:
    _folder(tmp_path / "train", {"a": 3, "b": 3})
    _folder(tmp_path / "test", {"a": 2, "b": 1})
    parts = read_parts(tmp_path)
    assert (len(parts.training.samples), len(parts.testing.samples)) == (6, 3)
    assert parts.notes == ()


def test_labels_without_training_images_are_left_out_and_counted(tmp_path: Path) -> None:
    images = _folder(tmp_path / "train", {"a": 2, "b": 2})
    test = _folder(tmp_path / "test", {"a": 2, "b": 2, "c": 3})
    parts = read_parts(images, test)
    assert Counter(s.label for s in parts.testing.samples) == {"a": 2, "b": 2}
    assert parts.notes == ("3 test images of labels that the bank does not have are left out.",)


def test_a_limit_is_spread_over_the_labels(tmp_path: Path) -> None:
    images = _folder(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    test = _folder(tmp_path / "test", {"a": 6, "b": 6, "c": 6})
    parts = read_parts(images, test, most=6)
    assert Counter(s.label for s in parts.testing.samples) == {"a": 2, "b": 2, "c": 2}
    assert parts.notes == ("6 of 18 test images are measured (--most).",)


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        ({"a": 4}, None, "All training images have one label"),
        ({"a": 4, "b": 1}, None, "1 label has one image only"),
        ({"a": 4, "b": 4}, {"c": 4}, "No image of test has a label of the training images"),
        ({"a": 4, "b": 4}, {"a": 4, "c": 1}, "All test images have the label 'a'"),
        ({"a": 4, "b": 4}, {}, "holds no labelled images"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    tmp_path: Path, train: dict[str, int], test: dict[str, int] | None, sentence: str
) -> None:
    images = _folder(tmp_path / "train", train)
    other = None
    if test is not None:
        other = tmp_path / "test"
        other.mkdir()
        _folder(other, test)
    with pytest.raises(FoldcamError, match=sentence):
        read_parts(images, other)


def test_labels_of_one_image_may_stay_in_the_bank(tmp_path: Path) -> None:
    images = _folder(tmp_path / "all", {"a": 4, "b": 4, "c": 1})
    parts = read_parts(images, singletons="keep")
    assert Counter(s.label for s in parts.training.samples)["c"] == 1
    assert {s.label for s in parts.testing.samples} == {"a", "b"}
    shutil.rmtree(images / "c")
    assert read_parts(images).testing.samples == parts.testing.samples
