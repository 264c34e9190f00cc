"""Class folders, CSV and CUB-200-2011 folders."""

from __future__ import annotations

import pytest

from foldcam.export.datasets import Box, Sample, handle_singletons, load_dataset
from foldcam.runtime.system.errors import FoldcamError


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _csv(root, text, encoding="utf-8"):
    path = root / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_class_folders_are_read_in_a_fixed_order(tmp_path):
    _touch(tmp_path, "b/10.jpg", "b/2.PNG", "a/x.webp", "a/deeper/y.tif", "a/notes.txt", "top.jpg")
    data = load_dataset(tmp_path)
    found = [(sample.path.name, sample.label) for sample in data.samples]
    assert sorted(found[:2]) == [("x.webp", "a"), ("y.tif", "a")]
    assert found[2:] == [("2.PNG", "b"), ("10.jpg", "b")]
    assert data.name == tmp_path.name


def test_hidden_folders_are_no_classes(tmp_path):
    _touch(tmp_path, "a/1.jpg", ".thumbnails/1.jpg", ".model.onnx.resume/2.jpg")
    assert {sample.label for sample in load_dataset(tmp_path).samples} == {"a"}


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("valid", 2), ("test", 1), ("all", 5)])
def test_split_folders_are_respected(split, count, tmp_path):
    _touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    _touch(tmp_path, "test/a/2.jpg", "val/b/3.jpg", "val/b/4.jpg")
    data = load_dataset(tmp_path, split)
    assert len(data.samples) == count
    assert {sample.label for sample in data.samples} <= {"a", "b"}


def test_labels_may_be_any_language_or_not_utf8(tmp_path):
    _touch(tmp_path, "Größe/1.jpg", "鳥 🐦/1.jpg")
    _touch(tmp_path, b"caf\xe9/1.jpg".decode("utf-8", "surrogateescape"))
    labels = {sample.label for sample in load_dataset(tmp_path).samples}
    assert labels == {"Größe", "鳥 🐦", "caf\ufffd"}
    assert all(sample.path.exists() for sample in load_dataset(tmp_path).samples)


@pytest.mark.parametrize("names", [[], ["1.jpg"], ["a/notes.txt"], [".git/1.jpg"]])
def test_a_folder_without_labelled_images_is_refused(names, tmp_path):
    _touch(tmp_path, *names)
    with pytest.raises(FoldcamError, match="no labelled images"):
        load_dataset(tmp_path)


def test_a_missing_path_and_an_image_are_refused(tmp_path):
    with pytest.raises(FoldcamError, match="does not exist"):
        load_dataset(tmp_path / "none")
    _touch(tmp_path, "one.jpg")
    with pytest.raises(FoldcamError, match="is one image"):
        load_dataset(tmp_path / "one.jpg")


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_paths_are_relative_to_the_file(start, tmp_path):
    path = _csv(tmp_path, f'{start}path,label\nimages/1.jpg,a\n/abs/2.jpg,"b, too"\n')
    assert load_dataset(path).samples == (
        Sample(tmp_path / "images/1.jpg", "a"),
        Sample(type(tmp_path)("/abs/2.jpg"), "b, too"),
    )
    assert load_dataset(path).name == "list.csv"


@pytest.mark.parametrize("between", [",", ";", "\t", ", "])
def test_csv_columns_are_separated_as_spreadsheets_do(between, tmp_path):
    rows = [("Path", "label"), ("1.jpg", "a"), ("2.jpg", "b")]
    path = _csv(tmp_path, "".join(f"{between.join(row)}\r\n" for row in rows), "utf-8-sig")
    assert [(each.path.name, each.label) for each in load_dataset(path).samples] == [
        ("1.jpg", "a"),
        ("2.jpg", "b"),
    ]


def test_csv_boxes_are_read_where_they_are_given(tmp_path):
    path = _csv(tmp_path, "label,path,x,y,w,h\na,1.jpg,1,2.5,3,4\nb,2.jpg,,,,\n")
    samples = load_dataset(path).samples
    assert [s.crop for s in samples] == [Box(1, 2, 3, 4), None]
    assert [s.box for s in samples] == [None, None]
    samples = load_dataset(path, boxes="truth").samples
    assert [s.box for s in samples] == [Box(1, 2.5, 3, 4), None]
    assert [s.crop for s in samples] == [None, None]


def test_csv_rows_without_a_split_belong_to_every_split(tmp_path):
    path = _csv(tmp_path, "path,label,split\n1.jpg,a,train\n2.jpg,a,test\n3.jpg,b,\n")
    names = {s: [x.path.name for x in load_dataset(path, s).samples] for s in ("train", "test")}
    assert names == {"train": ["1.jpg", "3.jpg"], "test": ["2.jpg", "3.jpg"]}
    assert len(load_dataset(path, "all").samples) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "first line must name the columns"),
        ("file,class\n1.jpg,a\n", "first line must name the columns"),
        ("path,label\n", "no labelled images"),
        ("path,label\n1.jpg,a\n2.jpg,\n", "line 3: path or label is empty"),
        ("path,label\n1.jpg,a\n2.jpg\n", "line 3: path or label is empty"),
        ("path,label\n1.jpg,a\n\n  ,b\n", "line 4: path or label is empty"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,3,4\n2.jpg,a,1,2,three,4\n", "line 3: x,y,w,h"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,3\n", "line 2: x,y,w,h"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,nan,4\n", "line 2: x,y,w,h"),
    ],
)
def test_a_malformed_csv_is_refused_with_its_line(text, sentence, tmp_path):
    with pytest.raises(FoldcamError, match=sentence):
        load_dataset(_csv(tmp_path, text))


def test_a_csv_of_another_encoding_is_refused(tmp_path):
    with pytest.raises(FoldcamError, match="not a readable CSV"):
        load_dataset(_csv(tmp_path, "path,label\n1.jpg,Größe\n", "latin-1"))


def _cub(root):
    tables = {
        "images.txt": "1 001.Bird/a b.jpg\n2 001.Bird/c.jpg\n3 002.Owl/d.jpg\n",
        "classes.txt": "1 001.Bird\n2 002.Owl\n",
        "image_class_labels.txt": "1 1\n2 1\n3 2\n",
        "bounding_boxes.txt": "1 1.0 2.0 3.0 4.0\n2 5 6 7 8\n3 0 0 9 9\n",
        "train_test_split.txt": "1 1\n2 0\n3 1\n",
    }
    for name, text in tables.items():
        (root / name).write_text(text)
    return root


def test_a_cub_folder_keeps_its_official_split(tmp_path):
    _cub(tmp_path)
    train, test = load_dataset(tmp_path), load_dataset(tmp_path, "test")
    assert train.samples == (
        Sample(tmp_path / "images/001.Bird/a b.jpg", "001.Bird", Box(1, 2, 3, 4)),
        Sample(tmp_path / "images/002.Owl/d.jpg", "002.Owl", Box(0, 0, 9, 9)),
    )
    assert [sample.path.name for sample in test.samples] == ["c.jpg"]
    assert len(load_dataset(tmp_path, "all").samples) == 3


@pytest.mark.parametrize("name", ["classes.txt", "bounding_boxes.txt", "train_test_split.txt"])
def test_a_cub_folder_without_a_list_is_refused(name, tmp_path):
    (_cub(tmp_path) / name).unlink()
    with pytest.raises(FoldcamError, match=f"{name} is missing"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("image_class_labels.txt", "1 1\n3 2\n"),
        ("image_class_labels.txt", "1 1\n2 9\n3 2\n"),
        ("bounding_boxes.txt", "1 1 2 3 4\n2 5 6 7\n3 0 0 9 9\n"),
        ("bounding_boxes.txt", "1 1 2 3 4\n2 5 6 x 7\n3 0 0 9 9\n"),
    ],
)
def test_a_cub_image_without_an_entry_is_named(name, text, tmp_path):
    (_cub(tmp_path) / name).write_text(text)
    with pytest.raises(FoldcamError, match="image 2 of images"):
        load_dataset(tmp_path)


def test_the_real_cub_folder_has_its_official_split(cub_root):
    counts = [len(load_dataset(cub_root, split).samples) for split in ("train", "test", "all")]
    assert counts[0] + counts[1] == counts[2]
    assert min(counts) > 0


def test_labels_with_one_image_follow_the_policy(tmp_path):
    samples = tuple(Sample(tmp_path / f"{i}", label) for i, label in enumerate("aabcc"))
    assert handle_singletons(samples, "keep") == samples
    assert "".join(s.label for s in handle_singletons(samples, "drop")) == "aacc"
    with pytest.raises(FoldcamError, match="1 label has one image only \\('b'\\)"):
        handle_singletons(samples, "refuse")
    assert handle_singletons(samples[:2], "refuse") == samples[:2]
    many = tuple(Sample(tmp_path, f"label {i}") for i in range(9))
    with pytest.raises(FoldcamError, match=r"9 labels have one image only .*'label 4', \.\.\."):
        handle_singletons(many, "refuse")


def test_continuous_labels_are_numbers(tmp_path):
    path = _csv(tmp_path, "path,label,x,y,w,h\n1.jpg,12.5,,,,\n2.jpg,-3e4,1,2,3,4\n3.jpg, 7 ,,,,\n")
    samples = load_dataset(path, continuous=True).samples
    assert [sample.value for sample in samples] == [12.5, -3e4, 7.0]
    assert [sample.label for sample in samples] == ["12.5", "-3e4", "7"]
    assert samples[1].crop == Box(1, 2, 3, 4)
    assert all(sample.value is None for sample in load_dataset(path).samples)


def test_folders_named_by_numbers_are_values(tmp_path):
    _touch(tmp_path, "1.5/a.jpg", "-20/b.jpg", "-20/c.jpg")
    samples = load_dataset(tmp_path, continuous=True).samples
    assert {sample.path.name: sample.value for sample in samples} == {
        "a.jpg": 1.5,
        "b.jpg": -20,
        "c.jpg": -20,
    }


@pytest.mark.parametrize("label", ["cheap", "nan", "inf", "-Infinity", "1,000", "1_000", "1e39"])
def test_a_label_that_is_no_finite_number_is_named_by_line(label, tmp_path):
    path = _csv(tmp_path, f'path,label\n1.jpg,3\n2.jpg,"{label}"\n')
    with pytest.raises(
        FoldcamError, match=r"line 3: the label .* is not a finite number"
    ) as caught:
        load_dataset(path, continuous=True)
    assert "list.csv" in str(caught.value)
    assert load_dataset(path).samples[1].label == label


def test_a_folder_that_is_no_number_is_named(tmp_path):
    _touch(tmp_path, "12/a.jpg", "owl/b.jpg")
    with pytest.raises(FoldcamError, match=r"owl.b.jpg: the label 'owl' is not a finite number"):
        load_dataset(tmp_path, continuous=True)
