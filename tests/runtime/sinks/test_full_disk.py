"""A disk that is full for a short time costs what could not be written then, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.sinks import encoders, open_outputs
from foldcam.runtime.sinks.encoders import playable_frames
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sinks.video import VideoSink
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def by_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without any H.264 encoder."""
    monkeypatch.setattr(encoders, "best_codec", encoders.FALLBACKS.__getitem__)


def fill(disk: Path, but: int = 0) -> None:
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * (free.f_bavail * free.f_frsize - but))


def noise(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    return np.repeat(np.repeat(cells, 4, 0), 4, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_live_film_is_ended_before_the_disk_is_full_and_goes_on(
    disk, suffix, make_source, make_item
):
    options = OutputOptions(save=str(disk / f"x{suffix}"))
    (sink,) = open_outputs([make_source()], options, RecordingOptions(min_free_gb=0))
    with sink:
        for index in range(120):
            if index == 60:
                fill(disk, but=300_000)
            if index == 70:
                (disk / "filler").unlink()
            item = make_item(index, seconds=index / 20, image=noise(index))
            if 60 <= index < 70:
                with pytest.raises(FoldcamError, match="No space left"):
                    sink.write(item)
            else:
                sink.write(item)
    films = sorted(disk.glob("x*"))
    assert len(films) == 2
    shown = sum(len(list(open_source(file=str(film)))) for film in films)
    assert shown >= 120 - 10 - 2
    assert sink.losses() == (0, "")


@pytest.mark.parametrize(("suffix", "least"), [(".mkv", 30), (".avi", 30), (".mp4", 0)])
def test_of_a_film_that_was_cut_what_plays_is_kept_and_the_rest_counted(
    disk, suffix, least, make_source, make_item, monkeypatch, by_opencv
):
    """The disk fills between two looks at it: OpenCV writes nothing more, and says nothing."""
    monkeypatch.setattr(VideoSink, "_check_margin", lambda self: None)
    options = OutputOptions(save=str(disk / f"x{suffix}"))
    (sink,) = open_outputs([make_source()], options, RecordingOptions(min_free_gb=0))
    with sink:
        for index in range(120):
            if index == 60:
                fill(disk)
            if index == 75:
                (disk / "filler").unlink()
            sink.write(make_item(index, seconds=index / 20, image=noise(index)))
    lost, reason = sink.losses()
    films = list(disk.glob("x*"))
    shown = len(list(open_source(file=str(films[0])))) if films else 0
    assert shown >= least
    assert abs(lost - (120 - shown)) <= 1
    assert f"{shown} of 120 frames of" in reason
    assert [path.name for path in disk.iterdir()] == ([f"x{suffix}"] if shown else [])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no program ffmpeg")
@pytest.mark.parametrize(("suffix", "least"), [(".mkv", 30), (".mp4", 0)])
def test_an_encoder_that_says_that_the_disk_is_full_goes_on_in_another_film(
    disk, suffix, least, make_source, make_item, monkeypatch
):
    monkeypatch.setattr(encoders, "best_codec", lambda suffix: "libx264")
    monkeypatch.setattr(VideoSink, "_check_margin", lambda self: None)
    options = OutputOptions(save=str(disk / f"x{suffix}"))
    (sink,) = open_outputs([make_source()], options, RecordingOptions(min_free_gb=0))
    refused = []
    with sink:
        for index in range(160):
            if index == 60:
                fill(disk)
            if index == 100:
                (disk / "filler").unlink()
            try:
                sink.write(make_item(index, seconds=index / 20, image=noise(index)))
            except FoldcamError as error:
                refused.append(str(error))
    lost, reason = sink.losses()
    assert refused
    assert all("No space left" in said for said in refused)
    films = sorted(disk.glob("x*"))
    shown = [len(list(open_source(file=str(film)))) for film in films]
    assert sum(shown) >= least + 60
    assert abs(sum(shown) + lost + len(refused) - 160) <= 2
    assert "frames of" in reason
    assert not list(disk.glob(".*"))


def test_a_count_that_a_film_makes_up_is_not_believed(disk):
    path = disk / "x.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (320, 240))
    for index in range(40):
        writer.write(noise(index))
    writer.release()
    assert playable_frames(path, 40) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < playable_frames(path, 40) < 40
    path.write_bytes(b"no film")
    assert playable_frames(path, 40) == 0
