"""What a folder or a pattern holds: every file is a picture, a film, or left out with a reason."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.listing import (
    EXAMPLES,
    counted,
    in_words,
    list_images,
    sort_out,
    sort_out_files,
)
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.errors import FoldcamError


def jpeg() -> bytes:
    return cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    folder = tmp_path / "mixed"
    for name in (
        "10.jpg", "2.JFIF", "a/3.ppm", "a/4.avif", "IMG.HEIC", "b.gif", "c.jp2", "bare",
        "x.jpg_old", ".hidden.jpg", ".thumbs/1.jpg", "__MACOSX/1.jpg", "a/@eaDir/1.jpg",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg())
    for name in ("notes.txt", "film.mp4", "README", "a/labels.csv"):
        (folder / name).write_bytes(b"something else")
    other = tmp_path / "other"
    other.mkdir()
    (other / "9.jpg").write_bytes(jpeg())
    (folder / "link.jpg").symlink_to(other / "9.jpg")
    (folder / "lost.jpg").symlink_to(other / "none.jpg")
    (folder / "linked").symlink_to(other)
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_every_entry_of_a_folder_is_a_picture_a_film_or_left_out_with_a_reason(mixed):
    found = sort_out(mixed)
    assert [str(path.relative_to(mixed)) for path in found.pictures] == [
        "2.JFIF", "10.jpg", "a/3.ppm", "a/4.avif", "b.gif", "bare", "c.jp2", "IMG.HEIC", "link.jpg",
    ]  # fmt: skip
    assert found.pictures == list_images(mixed)
    assert [path.name for path in found.films] == ["film.mp4"]
    reasons = {str(Path(item.path).relative_to(mixed)): item.reason for item in found.left_out}
    assert reasons == {
        ".hidden.jpg": "hidden",
        ".thumbs": "hidden",
        "__MACOSX": "a folder of the system",
        "a/@eaDir": "a folder of the system",
        "a/labels.csv": "of a format that is not read (.csv)",
        "linked": "a link to a folder, which is not followed",
        "lost.jpg": "a link that leads nowhere",
        "notes.txt": "of a format that is not read (.txt)",
        "pipe.jpg": "no regular file",
        "README": "without a suffix",
        "round": "a link to a folder, which is not followed",
        "x.jpg_old": "with the content of a picture (JPEG), and not the name of one (.jpg_old)",
    }
    assert [item.path for item in found.without_films()].count(str(mixed / "film.mp4")) == 1


def test_a_folder_that_is_itself_a_link_is_looked_into(mixed, tmp_path):
    assert [path.name for path in list_images(mixed / "linked")] == ["9.jpg"]


def test_what_is_named_is_taken_by_its_content(mixed):
    named = [mixed / name for name in (".hidden.jpg", "x.jpg_old", "notes.txt", "a", "pipe.jpg")]
    found = sort_out_files(named)
    assert [path.name for path in found.pictures] == [".hidden.jpg", "x.jpg_old"]
    assert [(Path(item.path).name, item.reason) for item in found.left_out] == [
        ("a", "a folder"),
        ("notes.txt", "of a format that is not read (.txt)"),
        ("pipe.jpg", "no regular file"),
    ]


def test_a_report_counts_by_reason_and_names_a_few(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.txt").touch()
    (tmp_path / ".x").touch()
    counts = counted(sort_out(tmp_path).left_out)
    assert [(entry["reason"], entry["count"]) for entry in counts] == [
        ("of a format that is not read (.txt)", 5), ("hidden", 1),
    ]  # fmt: skip
    assert counts[0]["examples"] == [str(tmp_path / f"{n}.txt") for n in range(EXAMPLES)]
    assert in_words(counts)[0].startswith(
        f"5 of a format that is not read (.txt): {tmp_path}/0.txt, "
    )
    assert in_words(counts)[0].endswith(", ...")
    assert in_words(counts)[1] == f"1 hidden: {tmp_path}/.x"


def test_a_folder_without_a_picture_says_what_is_there_instead(tmp_path):
    (tmp_path / "film.mp4").touch()
    (tmp_path / ".a.jpg").touch()
    with pytest.raises(FoldcamError, match=r"holds no image.*left out: .*1 a film.*film\.mp4"):
        open_source(file=str(tmp_path))
    with pytest.raises(FoldcamError, match=r"No picture matches .*1 a film"):
        open_source(file=f"{tmp_path}/*")


@pytest.mark.parametrize("options", [{}, {"every": 2}])
def test_a_source_says_what_it_left_out_however_it_is_looked_at(mixed, options):
    from foldcam.runtime.sources.base import left_out_of
    from foldcam.runtime.sources.options import SourceOptions

    with open_source(str(mixed), SourceOptions(**options)) as source:
        assert len(left_out_of(source)) == 13


@pytest.mark.parametrize("pattern", ["", "/*"])
def test_a_run_reports_what_it_left_out(runtime, tiny_model, tmp_path, pattern):
    folder = tmp_path / "in"
    write_image(folder / "a.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "b.jfif").write_bytes(jpeg())
    (folder / "notes.txt").write_text("x")
    (folder / "film.mp4").write_text("x")
    given = f"{folder}{pattern}"
    done = runtime("run", tiny_model, "--file", given, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["frames"] == 2
    assert {(entry["reason"], entry["count"]) for entry in document["left_out"]} == {
        ("of a format that is not read (.txt)", 1), ("a film, which is given by itself", 1),
    }  # fmt: skip
    done = runtime("run", tiny_model, "--file", given, "--quiet")
    assert "left out:" in done.stderr
    assert f"1 of a format that is not read (.txt): {folder}/notes.txt" in done.stderr


def test_a_named_file_that_was_left_out_is_in_the_status(runtime, tiny_model, photo, tmp_path):
    good, bad = photo("a.png"), tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    lines = tmp_path / "lines.jsonl"
    done = runtime(
        "run", tiny_model, "--source", good, "--source", bad, "--jsonl", lines, "--quiet"
    )
    assert done.returncode == 1
    assert f"Nothing could be read of {bad}" in done.stderr
    # What could be read is there nevertheless.
    assert len(lines.read_text().splitlines()) == 1


def test_a_socket_is_left_out(tmp_path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s.jpg"))
        assert [item.reason for item in sort_out(tmp_path).left_out] == ["no regular file"]
