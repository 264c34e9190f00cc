"""What lies in a data set and is no image of it is counted by kind and named."""

from __future__ import annotations

import pytest

from foldcam.export.datasets import load_dataset
from foldcam.export.verification.images import images_of
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def mixed(tmp_path):
    root = tmp_path / "mixed"
    for name in ("owl/1.jpg", "owl/2.xyz", "owl/.3.jpg", "gull/4.jpg", "tern/5.xyz", "6.jpg",
                 "gull/notes.txt"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "7.jpg").write_bytes(b"x")
    (root / "owl" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "owl" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    return root


def test_every_file_that_is_left_out_is_listed_with_its_reason(mixed):
    reasons = {item.path.name: item.reason for item in load_dataset(mixed).left_out}
    assert reasons == {
        "2.xyz": "of a format that is not read (.xyz)",
        "5.xyz": "of a format that is not read (.xyz)",
        ".3.jpg": "hidden",
        "6.jpg": "in no class folder",
        "notes.txt": "of a format that is not read (.txt)",
        "linked": "a link to a folder, which is not followed",
        "gone.jpg": "a link that leads nowhere",
    }


def test_one_note_counts_them_by_kind(mixed):
    note = load_dataset(mixed).notes[-1]
    assert note.startswith("7 files and folders were left out (2 of a format that is not read")
    assert "1 hidden" in note
    assert "owl/.3.jpg" in note


def test_a_class_that_holds_nothing_readable_is_named(mixed):
    (mixed / "kite").mkdir()
    data = load_dataset(mixed)
    assert {sample.label for sample in data.samples} == {"owl", "gull"}
    note = next(note for note in data.notes if "'tern'" in note)
    assert "'kite' (empty), 'tern' (1 other file: .xyz): no image that foldcam reads" in note


def test_a_data_set_with_nothing_readable_says_what_is_there(tmp_path):
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "1.xyz").write_bytes(b"x")
    with pytest.raises(FoldcamError, match=r"no labelled images .*1 of a format .*owl.1\.xyz"):
        load_dataset(tmp_path)


def test_verify_lists_what_is_left_out_of_a_plain_folder(tmp_path):
    for name in ("1.jpg", "2.xyz", "in/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    data = images_of(tmp_path, "all")
    assert [item.path.name for item in data.left_out] == ["2.xyz", ".hidden.png"]
    assert data.notes
