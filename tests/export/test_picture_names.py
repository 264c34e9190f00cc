"""A picture's name is its file's, relative to the data set's root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foldcam.export.datasets import Sample, load_dataset
from foldcam.export.datasets.samples import Box, plain_name, relative_name, url_name


def test_class_folders_name_pictures_below_the_root_with_their_split(photos: Path) -> None:
    names = {sample.row_name for sample in load_dataset(photos).samples}
    assert names == {f"{c}/{n}.png" for c in ("blue", "green", "red") for n in range(4)}
    root = photos.parent / "parts"
    root.mkdir()
    photos.rename(root / "train")
    assert load_dataset(root).samples[0].row_name == "train/blue/0.png"


def test_a_csv_names_pictures_from_its_folder_and_crops_with_their_box(photos: Path) -> None:
    folder = photos.parent / "lists"
    folder.mkdir()
    table = folder / "some.csv"
    absolute = photos / "red" / "0.png"
    table.write_text(
        f"path,label,x,y,w,h\n../photos/blue/0.png,a,,,,\n{absolute},b,1,2,8,9\n", encoding="utf-8"
    )
    names = [sample.row_name for sample in load_dataset(table).samples]
    assert names == ["../photos/blue/0.png", "../photos/red/0.png#1,2,8,9"]


def test_cub_names_pictures_as_its_list_does(tmp_path: Path) -> None:
    lists = {
        "images.txt": "1 001.Gull/a.jpg\n2 002.Owl/b.jpg\n",
        "classes.txt": "1 001.Gull\n2 002.Owl\n",
        "image_class_labels.txt": "1 1\n2 2\n",
        "bounding_boxes.txt": "1 0 0 5 5\n2 0 0 5 5\n",
        "train_test_split.txt": "1 1\n2 1\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    names = [sample.row_name for sample in load_dataset(tmp_path).samples]
    assert names == ["001.Gull/a.jpg", "002.Owl/b.jpg"]


def test_a_sample_made_by_hand_is_called_by_its_file_alone() -> None:
    assert Sample(Path("/photos/jane/x.jpg"), "a").row_name == "x.jpg"
    assert Sample(Path("x.jpg"), "a", crop=Box(1, 2, 3, 4)).row_name == "x.jpg#1,2,3,4"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://jane:secret@host.org/a/b.jpg?token=secret", "host.org/a/b.jpg"),
        ("simplecache::s3://bucket/a/b.jpg", "bucket/a/b.jpg"),
    ],
)
def test_the_name_of_a_url_holds_no_secret(url: str, name: str) -> None:
    assert url_name(url) == name


def test_names_are_text_of_one_form_and_bounded() -> None:
    assert plain_name("u\u0308.jpg") == "ü.jpg"
    assert plain_name("a\0b" + os.fsdecode(b"\xff")) == "a\ufffdb\ufffd"
    assert len(plain_name("x" * 5000)) == 4096
    assert relative_name(Path("/a/b/../c/x.jpg"), Path("/a")) == "c/x.jpg"
