"""Films in H.264, which a browser plays; where that is not to be had, it is said."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.benchmarks.studies.reliability.page import chromium, why_no_browser
from foldcam.runtime.sinks import encoders
from foldcam.runtime.sinks.encoders import ProgramEncoder, best_codec, open_encoder, playable_frames
from foldcam.runtime.system.errors import FoldcamError

with_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no program ffmpeg")
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 120, 120)]


@pytest.fixture(autouse=True)
def _fresh():
    best_codec.cache_clear()
    yield
    best_codec.cache_clear()


def frames(count: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Each of one colour, with a white bar that moves."""
    made = []
    for number in range(count):
        frame = np.full((height, width, 3), COLOURS[number % 4], np.uint8)
        frame[:, number % width : number % width + 8] = 255
        made.append(frame)
    return made


def write(path: Path, count: int, fps: float = 25.0) -> None:
    encoder = open_encoder(path, fps, (320, 240))
    for frame in frames(count):
        encoder.write(frame)
    encoder.release()


def codec_of(path: Path) -> str:
    capture = cv2.VideoCapture(str(path))
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    capture.release()
    return code.to_bytes(4, "little").decode()


@with_ffmpeg
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_is_h264_and_has_every_frame_at_its_place_in_its_colour(tmp_path, suffix):
    path = tmp_path / f"a film 'of' %03d{suffix}"
    write(path, 60)
    assert codec_of(path) in ("avc1", "h264", "H264")
    assert playable_frames(path, 60) == 60
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25.0)
    for frame in frames(60):
        read, shown = capture.read()
        assert read
        assert abs(shown[..., ::-1].astype(int) - frame)[100:140, 200:300].mean() < 6


@with_ffmpeg
@pytest.mark.parametrize("fps", [1.0, 29.97, 0.5])
def test_the_rate_is_kept(tmp_path, fps):
    write(tmp_path / "a.mp4", 10, fps)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-3)


def test_an_avi_is_motion_jpeg_and_nothing_is_said(tmp_path, caplog):
    write(tmp_path / "a.avi", 5)
    assert codec_of(tmp_path / "a.avi") == "MJPG"
    assert not caplog.records


def test_without_an_encoder_of_h264_films_are_mpeg_4_and_that_is_said_once(
    tmp_path, monkeypatch, caplog
):
    from foldcam.runtime.system.logs import log

    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(encoders, "_works", lambda codec, suffix: False)
    for name in ("a.mp4", "b.mp4"):
        write(tmp_path / name, 5)
        assert codec_of(tmp_path / name) in ("mp4v", "FMP4")
        assert playable_frames(tmp_path / name, 5) == 5
    (record,) = caplog.records
    assert "which browsers do not play" in record.getMessage()
    assert "apt install ffmpeg" in record.getMessage()


def test_a_program_that_is_not_what_it_is_called_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not encoders._works("libx264", ".mp4")


@with_ffmpeg
def test_an_encoder_that_ended_says_why(tmp_path):
    encoder = ProgramEncoder(tmp_path / "no folder" / "a.mp4", "libx264", 25.0, (320, 240))
    with pytest.raises(FoldcamError, match=r"ffmpeg ended: .*No such file or directory"):
        _ = [encoder.write(frame) for frame in frames(200)]
    encoder.release()


@with_ffmpeg
def test_a_signal_to_all_processes_of_a_terminal_does_not_end_the_film(tmp_path):
    encoder = ProgramEncoder(tmp_path / "a.mp4", "libx264", 25.0, (320, 240))
    first, *others = frames(30)
    encoder.write(first)
    for number in (signal.SIGINT, signal.SIGTERM):
        encoder._process.send_signal(number)
    for frame in others:
        encoder.write(frame)
    encoder.release()
    assert playable_frames(tmp_path / "a.mp4", 30) == 30


@with_ffmpeg
def test_the_file_stays_locked_until_the_program_has_ended_it(tmp_path):
    path = tmp_path / "a.mkv"
    lock = os.open(path, os.O_CREAT | os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    encoder = ProgramEncoder(path, "libx264", 25.0, (320, 240), lock)
    os.close(lock)  # as a process does that is killed
    with path.open("rb") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        encoder.release()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@with_ffmpeg
def test_a_killed_run_leaves_an_mp4_that_plays(tmp_path, child_environment):
    path = tmp_path / "a.mp4"
    code = f"""
import os, signal, numpy as np
from pathlib import Path
from foldcam.runtime.sinks.encoders import ProgramEncoder
encoder = ProgramEncoder(Path({str(path)!r}), "libx264", 25.0, (320, 240))
for number in range(50):
    encoder.write(np.full((240, 320, 3), number, np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], env=child_environment(), check=False)
    # The program has the rest of its input still, and nobody waits for it.
    for _ in range(200):
        if playable_frames(path, 50) >= 49:
            break
        time.sleep(0.05)
    assert playable_frames(path, 50) >= 49


CAN_PLAY = """document.createElement("video").canPlayType('video/mp4; codecs="avc1.64001f"')"""
PLAY = """async (uri) => {
  const video = document.createElement("video");
  video.muted = true;
  const loaded = new Promise((done) => {
    video.onloadeddata = () => done("loaded");
    video.onerror = () => done(`error ${video.error.code}`);
  });
  video.src = uri;
  const state = await loaded;
  return [state, video.videoWidth, video.videoHeight, video.duration];
}"""


@with_ffmpeg
@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
def test_a_browser_plays_the_film_and_refuses_what_was_written_before(tmp_path):
    write(tmp_path / "new.mp4", 50)
    old = encoders.OpencvEncoder(tmp_path / "old.mp4", "mp4v", 25.0, (320, 240))
    for frame in frames(50):
        old.write(frame)
    old.release()
    with chromium() as browser:
        page = browser.new_page()
        assert page.evaluate(
            "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.64001f\"')"
        )
        shown = {}
        for name in ("new", "old"):
            data = base64.b64encode((tmp_path / f"{name}.mp4").read_bytes()).decode()
            shown[name] = page.evaluate(PLAY, f"data:video/mp4;base64,{data}")
    assert shown["new"][:3] == ["loaded", 320, 240]
    assert shown["new"][3] == pytest.approx(2.0, abs=0.1)
    assert shown["old"][0].startswith("error")
