"""What a path may name: files whatever they are called, and special files in one sentence."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from foldcam.runtime.sources import open_source, opening
from foldcam.runtime.sources.live import LiveSource
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "a:b.mp4", "subfile,x.mp4", "pipe:1.mp4", "%03d.mp4"]
)
def test_a_relative_film_is_a_file_whatever_ffmpeg_could_read_into_its_name(
    video, monkeypatch, name
):
    path: Path = video("in.mp4", frames=12)
    path.rename(path.with_name(name))
    monkeypatch.chdir(path.parent)
    with open_source(name) as source:
        assert source.name == name
        assert len(list(source)) == 12


@pytest.mark.parametrize("name", ["a:b.png", "rtsp:x.png", "http:1.png"])
def test_so_is_a_picture(photo, monkeypatch, name):
    path: Path = photo("x.png")
    path.rename(path.with_name(name))
    monkeypatch.chdir(path.parent)
    with open_source(name) as source:
        assert len(list(source)) == 1


def test_a_pipe_is_never_opened_and_the_advice_works(
    runtime, runtime_process, tiny_model, tmp_path
):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for option in ("--file", "--source"):
        done = runtime("run", tiny_model, option, pipe)
        assert done.returncode == 1
        assert f"{pipe} is a pipe" in done.stderr
        assert f"--source - --width 640 --height 480 < {pipe}" in done.stderr
    with (tmp_path / "raw").open("wb+") as raw:
        raw.write(bytes(3 * 4 * 6 * 2))
        raw.seek(0)
        done = runtime_process(
            "run", tiny_model, "--source", "-", "--width", 6, "--height", 4, "--json", stdin=raw
        )
    assert '"frames": 2' in done.stdout


@pytest.mark.parametrize("option", ["file", "source"])
def test_a_device_that_is_no_camera_and_a_socket_are_named(tmp_path, option):
    with pytest.raises(FoldcamError, match="/dev/zero is a device, and no camera"):
        open_source(**{option: "/dev/zero"})
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        with pytest.raises(FoldcamError, match="is a socket"):
            open_source(**{option: str(path)})


@pytest.mark.parametrize("option", ["file", "source"])
@pytest.mark.parametrize("name", ["v4l/by-id/usb-cam-index0", "mycam"])
def test_a_camera_is_one_by_any_path(tmp_path, monkeypatch, option, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    real = Path.stat

    def device(self: Path, **options: bool) -> object:
        if self == path:
            return SimpleNamespace(st_mode=stat.S_IFCHR, st_rdev=os.makedev(81, 0))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", device)
    monkeypatch.setattr(opening.sys, "platform", "linux")
    source = open_source(**{option: str(path)}, flow=FlowOptions(wait=True))
    assert isinstance(source, LiveSource)
    assert (source.name, source.stem) == (str(path), path.name)


def test_a_number_is_taken_for_no_camera_and_the_option_is_named():
    with pytest.raises(
        FoldcamError, match="0 does not exist; a camera by its number is --camera 0"
    ):
        open_source("0")


def test_a_film_under_the_name_of_a_picture_is_a_film(video):
    path: Path = video("in.mp4", frames=8)
    other = path.rename(path.with_name("in.jpg"))
    with open_source(file=str(other)) as source:
        assert not source.stills
        assert len(list(source)) == 8
