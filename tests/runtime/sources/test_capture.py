"""What is asked of OpenCV, and what is said when it cannot."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from foldcam.runtime.sources import capture, open_source
from foldcam.runtime.sources.address import parse_address
from foldcam.runtime.sources.camera import csi_pipeline
from foldcam.runtime.sources.live import LiveSource
from foldcam.runtime.sources.options import FlowOptions, SourceOptions
from foldcam.runtime.system.errors import FoldcamError


class FakeCv:
    """A `cv2.VideoCapture` that gives what it is told to."""

    def __init__(self, *frames: object) -> None:
        self.frames = list(frames)
        self.asked: list[tuple[int, float]] = []
        self.released = False

    def get(self, name: int) -> float:
        return 25.0

    def set(self, name: int, value: float) -> bool:
        self.asked.append((name, value))
        return True

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self, buffer: object = None) -> tuple[bool, object]:
        frame = self.frames.pop(0) if self.frames else (False, None)
        if isinstance(frame, Exception):
            raise frame
        return frame

    def release(self) -> None:
        self.released = True


def test_pictures_are_rgb_in_memory_of_their_own():
    blue = np.zeros((2, 2, 3), np.uint8)
    blue[..., 0] = 200
    found = capture.CvCapture(FakeCv((True, blue), (True, blue)))
    first, second = found.read(), found.read()
    assert first[0, 0].tolist() == [0, 0, 200]
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, blue)


@pytest.mark.parametrize(
    "failed",
    [
        (False, None),
        (False, np.zeros((2, 2, 3), np.uint8)),
        (True, None),
        (True, np.empty((0, 0, 3), np.uint8)),
        (True, np.zeros((2, 2, 3), np.float32)),
        cv2.error("driver"),
    ],
)
def test_a_failed_read_is_no_picture(failed):
    assert capture.CvCapture(FakeCv(failed)).read() is None


def test_a_bad_picture_is_skipped_and_counted_and_the_end_is_the_end():
    good, bad = (True, np.full((2, 3, 3), 7, np.uint8)), (False, None)
    found = capture.CvCapture(FakeCv(bad, good, good, bad, cv2.error("x"), good, *[bad] * 500))
    assert [found.read() is not None for _ in range(3)] == [True] * 3
    assert found.bad == 3
    # What follows is no bad picture, for no good one comes behind it.
    assert found.read() is None
    assert found.bad == 3


def test_as_many_failures_in_a_row_are_the_end():
    good, bad = (True, np.full((2, 3, 3), 7, np.uint8)), (False, None)
    most = capture.FAILED_READS
    assert capture.CvCapture(FakeCv(*[bad] * (most - 1), good)).read() is not None
    assert capture.CvCapture(FakeCv(*[bad] * most, good)).read() is None


@pytest.mark.parametrize(("live", "comes"), [(True, False), (False, True)])
def test_a_live_source_that_fails_slowly_has_ended_and_a_file_has_not(monkeypatch, live, comes):
    class Slow(FakeCv):
        def read(self, buffer: object = None) -> tuple[bool, object]:
            clock[0] += 1.5
            return super().read(buffer)

    clock = [100.0]
    monkeypatch.setattr(capture.time, "monotonic", lambda: clock[0])
    fake = Slow((False, None), (False, None), (True, np.zeros((2, 2, 3), np.uint8)))
    assert (capture.CvCapture(fake, live=live).read() is not None) == comes


def test_frames_above_the_limit_of_pixels_are_refused(monkeypatch):
    monkeypatch.setenv("FOLDCAM_MAX_MEGAPIXELS", "0.0001")
    found = capture.CvCapture(FakeCv((True, np.zeros((20, 20, 3), np.uint8))), "film")
    with pytest.raises(FoldcamError, match="film has 20 x 20 pixels"):
        found.read()


def test_grey_pictures_become_rgb():
    found = capture.CvCapture(FakeCv((True, np.full((2, 3), 7, np.uint8))))
    assert found.read().shape == (2, 3, 3)


def test_a_camera_is_asked_for_codec_first_then_size_and_rate(monkeypatch, tmp_path):
    fake, opened = FakeCv(), []
    device = tmp_path / "cam"
    device.touch()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *a: opened.append(a) or fake)
    address = parse_address(f"v4l2://{device}?size=1280x720&rate=30&codec=MJPG")
    capture.open_capture(address, 5.0)
    assert opened[0][0] == str(device)
    assert fake.asked == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 1280),
        (cv2.CAP_PROP_FRAME_HEIGHT, 720),
        (cv2.CAP_PROP_FPS, 30.0),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]


@pytest.mark.parametrize(
    ("uri", "options", "opened"),
    [
        ("rtsp://h/x", SourceOptions(), "rtsp://h/x?tcp"),
        ("rtsp://u:p@h/x?a=1", SourceOptions(transport="udp"), "rtsp://u:p@h/x?a=1&udp"),
        ("http://h/x?a=1", SourceOptions(transport="udp"), "http://h/x?a=1"),
    ],
)
def test_transport_and_decoding_reach_ffmpeg(monkeypatch, uri, options, opened):
    calls = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *a: calls.append(a) or FakeCv())
    capture.open_capture(parse_address(uri, options), 2.5)
    ((target, backend, parameters),) = calls
    assert (target, backend) == (opened, cv2.CAP_FFMPEG)
    pairs = dict(zip(parameters[::2], parameters[1::2], strict=True))
    assert pairs == {cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 2500, cv2.CAP_PROP_READ_TIMEOUT_MSEC: 2500}
    assert capture.decoding("hardware") == [
        cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY,
    ]  # fmt: skip
    assert capture.decoding("software")[1] == cv2.VIDEO_ACCELERATION_NONE


def test_the_pipeline_of_a_csi_camera():
    assert csi_pipeline(1, SourceOptions(width=1920, height=1080, fps=29.97)) == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM), width=1920, height=1080, framerate=2997/100 ! nvvidconv ! "
        "video/x-raw, format=BGRx ! videoconvert ! video/x-raw, format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
    assert "width=1280, height=720, framerate=30/1" in csi_pipeline(0, SourceOptions())


def test_the_csi_pipeline_is_what_gstreamer_opens(monkeypatch):
    calls = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *a: calls.append(a) or FakeCv())
    address = parse_address("csi://1?size=640x480")
    capture.open_capture(address, 5.0)
    assert calls == [(csi_pipeline(1, address.options), cv2.CAP_GSTREAMER)]


@pytest.mark.parametrize(
    ("uri", "lacking", "message"),
    [
        ("csi://0", "GStreamer", "built without GStreamer.*JetPack"),
        ("rtsp://u:secret@h/x", "FFMPEG", "built without FFmpeg"),
    ],
)
def test_what_this_opencv_lacks_is_said_at_once_even_by_who_would_wait(
    monkeypatch, uri, lacking, message
):
    monkeypatch.setattr(capture, "has", lambda option: option != lacking)
    with pytest.raises(FoldcamError, match=message) as caught:
        open_source(uri, flow=FlowOptions(wait=True))
    assert "secret" not in str(caught.value)


def test_who_waits_gets_a_source_that_is_not_there_yet():
    source = open_source("tcp://127.0.0.1:9", flow=FlowOptions(wait=True))
    assert isinstance(source, LiveSource)
    assert (source.fps, source.skipped) == (None, [])


def test_the_doctor_tells_how_a_source_would_be_read(runtime):
    done = runtime("doctor", "--source", "csi://1?size=640x480")
    assert done.returncode == 0, done.stderr
    assert csi_pipeline(1, SourceOptions(width=640, height=480)) in done.stdout
    done = runtime("doctor", "--source", "rtsp://u:secret@h/x?token=abc")
    assert "rtsp://***@h/x?***" in done.stdout
    assert "secret" not in done.stdout
    assert runtime("doctor", "--source", "ftp://x").returncode == 1
