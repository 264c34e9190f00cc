"""Photographs, videos, cameras, streams: what they deliver and how they fail."""

from __future__ import annotations

import contextlib
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from foldcam.runtime.images.files import write_image
from foldcam.runtime.sources import open_source
from foldcam.runtime.sources.camera import camera_failure
from foldcam.runtime.sources.images import pattern_root
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import bare_address


def test_folder_skips_and_names_what_is_corrupt(photo):
    folder = photo("b/2.png").parent.parent
    photo("b/10.png", (0, 255, 0))
    (folder / "a.jpg").write_bytes(b"no image")
    (folder / "c.png").write_bytes(b"")
    with open_source(file=str(folder)) as source:
        assert (source.stills, source.live, source.frames, source.fps) == (True, False, 4, None)
        frames = list(source)
    assert [str(frame.name) for frame in frames] == ["b/2.png", "b/10.png"]
    assert [frame.index for frame in frames] == [0, 1]
    assert frames[1].image[0, 0].tolist() == [0, 255, 0]
    assert [skip.path for skip in source.skipped] == [str(folder / "a.jpg"), str(folder / "c.png")]
    assert source.skipped[1].reason == "empty (0 bytes)"


def test_pattern_mirrors_folders_below_its_root(photo, tmp_path):
    photo("x/1.png"), photo("y/1.png")
    with open_source(file=f"{tmp_path}/photos/*/1.png") as source:
        assert [str(frame.name) for frame in source] == ["x/1.png", "y/1.png"]


def test_file_whose_name_looks_like_a_pattern(photo):
    path = photo("a[1].png")
    with open_source(file=str(path)) as source:
        assert [frame.source for frame in source] == [str(path)]


@pytest.mark.parametrize(
    ("pattern", "root"),
    [("*.jpg", "."), ("a/b/*.jpg", "a/b"), ("/x/**/c/*.jpg", "/x"), ("a/b.jpg", "a")],
)
def test_pattern_root(pattern, root):
    assert str(pattern_root(pattern)) == root


def test_photograph_without_a_suffix(photo):
    path = photo("owl.png")
    bare = path.rename(path.with_suffix(""))
    with open_source(file=str(bare)) as source:
        assert source.stills


def test_video_delivers_every_frame_in_order(video):
    with open_source(file=str(video(frames=40))) as source:
        assert (source.stills, source.live, source.frames) == (False, False, 40)
        assert source.fps == pytest.approx(20)
        frames = list(source)
    # Written by OpenCV as BGR (10, 20, 100 + index): red is the one that grows.
    reds = [float(frame.image[..., 0].mean()) for frame in frames]
    blues = [float(frame.image[..., 2].mean()) for frame in frames]
    np.testing.assert_allclose(reds, 100 + np.arange(40), atol=8)
    assert max(blues) < 30
    assert [frame.index for frame in frames] == list(range(40))
    times = [frame.timestamp for frame in frames]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(39 / 20, abs=0.06)
    assert source.skipped == []


def test_truncated_video_delivers_what_there_is_and_says_so(tmp_path):
    whole = tmp_path / "whole.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25", "-t", "4",
         "-c:v", "mpeg4", "-movflags", "+faststart", str(whole)],
        check=True,
    )  # fmt: skip
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with open_source(file=str(path)) as source:
        frames = list(source)
    assert 10 < len(frames) < 90
    assert [(skip.path, skip.reason) for skip in source.skipped] == [
        (str(path), f"ended early at frame {len(frames)} of 100")
    ]


def test_video_cut_before_its_index_is_refused(video):
    path = video()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FoldcamError, match=r"not a video.*truncated"):
        open_source(file=str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mp4", b"", "is empty"),
        ("a.mp4", b"plain text" * 50, "not a video"),
        ("a.m3u8", b"#EXTM3U\nhttp://127.0.0.1:1/x.ts", "playlist"),
        ("a.txt", b"plain text", "not a video"),
    ],
)
def test_file_that_is_no_video(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FoldcamError, match=message):
        open_source(file=str(tmp_path / name))


def test_what_does_not_exist(tmp_path):
    for file, message in (
        (f"{tmp_path}/none.jpg", "does not exist"),
        (f"{tmp_path}/*.jpg", "No file matches"),
        (str(tmp_path), "holds no image"),
        ("a\0b", "cannot be opened|does not exist"),
    ):
        with pytest.raises(FoldcamError, match=message):
            open_source(file=file)


@pytest.mark.parametrize("scheme", ["webrtc", "s3", "gopher"])
def test_unsupported_scheme_is_named_without_credentials(scheme):
    with pytest.raises(FoldcamError, match=f"scheme '{scheme}'") as caught:
        open_source(source=f"{scheme}://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_credentials_are_hidden():
    assert bare_address("rtsp://u:p@h:554/x?a@b") == "rtsp://***@h:554/x?***"
    assert bare_address("rtsp://h/x@y") == "rtsp://h/x@y"
    assert bare_address("rtsp://u:p@ss@h/x") == "rtsp://***@h/x"


def test_file_uri(photo):
    path = photo("an owl.png")
    with open_source(source=f"file://{str(path).replace(' ', '%20')}") as source:
        assert len(list(source)) == 1


def test_exactly_one_is_given():
    for given in ({}, {"camera": 0, "file": "x"}):
        with pytest.raises(ValueError, match="exactly one"):
            open_source(**given)


def test_camera_that_does_not_exist_lists_those_that_do(tmp_path):
    dev, sysfs = tmp_path / "dev", tmp_path / "sys"
    dev.mkdir()
    assert "no video device exists" in camera_failure(0, dev, sysfs)
    for number, name in ((10, "Ten"), (2, "Two\x1b[2J")):
        (dev / f"video{number}").touch()
        (sysfs / f"video{number}").mkdir(parents=True)
        (sysfs / f"video{number}" / "name").write_text(f"{name}\n")
    sentence = camera_failure(0, dev, sysfs)
    assert f"{dev}/video0 does not exist" in sentence
    assert f"{dev}/video2 (Two\\x1b[2J), {dev}/video10 (Ten)" in sentence
    assert "in use" in camera_failure(2, dev, sysfs)


def test_stream_that_nobody_serves():
    with pytest.raises(FoldcamError, match=r"tcp://\*\*\*@127.0.0.1:9 cannot be opened"):
        open_source(source="tcp://me:secret@127.0.0.1:9")


def test_live_stream_over_loopback():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["ffmpeg", "-v", "quiet", "-re", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25",
         "-t", "2", "-c:v", "mpeg4", "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                source = open_source(source=f"tcp://127.0.0.1:{port}")
                break
            except FoldcamError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        with source:
            assert (source.live, source.stills, source.frames) == (True, False, None)
            frames = list(source)
    finally:
        server.kill()
        server.wait()
    assert len(frames) > 20
    assert frames[0].image.shape == (120, 160, 3)
    assert frames[0].timestamp == 0
    assert str(frames[0].name) == "tcp-127.0.0.1"
    assert "stopped delivering" in source.skipped[0].reason


def test_images_of_every_format_in_one_folder(tmp_path):
    for suffix in ("jpg", "png", "webp", "bmp", "tiff"):
        write_image(tmp_path / f"a.{suffix}", np.zeros((4, 4, 3), np.uint8))
    with open_source(file=str(tmp_path)) as source:
        assert len(list(source)) == 5


def silent_server() -> socket.socket:
    """Takes a connection and says nothing, as a camera behind a broken switch."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def test_opencv_that_is_stuck_in_an_open_is_left_behind_and_ends_by_itself():
    from foldcam.runtime.sources.options import FlowOptions

    with silent_server() as server:
        uri = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        source = open_source(uri, flow=FlowOptions(wait=True, stall_seconds=1.5))
        with source:
            threading.Timer(0.4, source.stop).start()
            begun = time.monotonic()
            assert list(source) == []
            stopped = time.monotonic() - begun
        left = source.left_behind
        deadline = time.monotonic() + 20
        while source.left_behind and time.monotonic() < deadline:
            time.sleep(0.05)
    # Before FFmpeg's timeout, which then ends the thread.
    assert stopped < 1.5
    assert left == 1
    assert source.left_behind == 0


def test_the_program_stops_at_once_while_it_connects(tiny_model, child_environment, tmp_path):
    with contextlib.ExitStack() as ends:
        running = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            server = ends.enter_context(silent_server())
            child = subprocess.Popen(
                [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model),
                 "--source", f"tcp://127.0.0.1:{server.getsockname()[1]}"],
                env=child_environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            ends.callback(child.kill)
            running.append((number, child, server))
        stopped = []
        for number, child, server in running:
            server.settimeout(30)
            connection, _ = server.accept()
            ends.enter_context(connection)
            begun = time.monotonic()
            child.send_signal(number)
            stopped.append((number, child, begun))
        for number, child, begun in stopped:
            _, stderr = child.communicate(timeout=30)
            assert child.returncode == 128 + number
            assert stderr.startswith(f"stopped by {number.name}")
            assert stderr.count("\n") == 1
            assert time.monotonic() - begun < 8  # the stall deadline is 10 s


def test_motion_jpeg_over_http(tmp_path):
    import cv2

    _, encoded = cv2.imencode(".jpg", np.full((48, 64, 3), (0, 0, 200), np.uint8))
    part = (
        b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(encoded)
        + encoded.tobytes()
        + b"\r\n"
    )

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            if asked[-1][1] is None:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(part)
                    time.sleep(0.005)

        def log_message(self, *_):
            pass

    asked: list = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        uri = f"http://me:s%40crit@127.0.0.1:{server.server_port}/live.mjpg?token=42"
        with open_source(uri) as source:
            assert source.name == f"http://***@127.0.0.1:{server.server_port}/live.mjpg?***"
            frame = next(iter(source))
    finally:
        server.shutdown()
        server.server_close()
    assert frame.image.shape == (48, 64, 3)
    assert frame.image[20, 20, 0] > 150
    assert asked[-1] == ("/live.mjpg?token=42", "Basic bWU6c0Bjcml0")


def test_a_stream_over_udp():
    from foldcam.runtime.sources.options import FlowOptions

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sender = subprocess.Popen(
        ["ffmpeg", "-v", "quiet", "-nostdin", "-re", "-f", "lavfi", "-i",
         "testsrc=size=160x120:rate=25", "-c:v", "mpeg4", "-g", "5", "-f", "mpegts",
         f"udp://127.0.0.1:{port}?pkt_size=1316"]
    )  # fmt: skip
    try:
        flow = FlowOptions(wait=True, stall_seconds=10)
        with open_source(f"udp://127.0.0.1:{port}", flow=flow) as source:
            frame = next(iter(source))
    finally:
        sender.kill()
        sender.wait()
    assert frame.image.shape == (120, 160, 3)
    assert frame.image.std() > 20
