"""A frame that cannot be decoded costs that frame, of a film and of a camera alike."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.sources import Link, open_source
from foldcam.runtime.sources.options import FlowOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor

BAD = (5, 6, 17)


def picture(number: int) -> np.ndarray:
    """BGR, whose red is 4 times the number."""
    return np.full((48, 64, 3), (20, 40, 4 * number), np.uint8)


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", picture(number))[1].tobytes()


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Thirty frames, of which `BAD` hold nothing that can be decoded."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(30):
        writer.write(picture(number))
    writer.release()
    data = bytearray(path.read_bytes())
    at = data.find(b"movi")
    for number in range(30):
        at = data.find(b"00dc", at + 1)
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        assert data[at + 8 : at + 10] == b"\xff\xd8"
        if number in BAD:
            data[at + 8 : at + 8 + length] = bytes(length)
    path.write_bytes(data)
    return path


def test_a_film_goes_on_behind_a_bad_frame_and_its_numbers_stay(film):
    monitor = Monitor()
    monitor.add_stream("film", False)
    with open_source(file=str(film)) as source:
        source.attach(Link(monitor, 0))
        frames = list(source)
    assert [frame.index for frame in frames] == [n for n in range(30) if n not in BAD]
    reds = [float(frame.image[..., 0].mean()) for frame in frames]
    np.testing.assert_allclose(reds, [4 * frame.index for frame in frames], atol=6)
    assert [skip.reason for skip in source.skipped] == [
        "3 frames of it cannot be decoded and were left out"
    ]
    assert monitor.snapshot().streams[0].drops == {"unreadable": 3}


def test_a_run_over_such_a_film_counts_them(runtime, tiny_model, film):
    done = runtime("run", tiny_model, "--file", film, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["frames"] == 27
    assert document["streams"][0]["drops"] == {"unreadable": 3}
    assert document["streams"][0]["captured"] == 30
    assert "3 frames" in document["skipped"][0]["reason"]


def test_a_film_that_is_stopped_does_not_say_that_it_ended_early(film):
    with open_source(file=str(film)) as source:
        frames = iter(source)
        next(frames)
        source.stop()
        assert list(frames) == []
    assert source.skipped == []


@pytest.mark.parametrize("name", ["raw.mjpeg", "raw.MJPG", "raw", "raw.bin"])
def test_pictures_one_after_the_other_are_a_film_under_any_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"".join(jpeg(number) for number in range(20)))
    with open_source(file=str(path)) as source:
        assert not source.stills
        assert len(list(source)) == 20


def test_the_name_of_one_picture_hides_no_film(tmp_path):
    path = tmp_path / "raw.jpg"
    path.write_bytes(jpeg(1) + jpeg(2))
    with pytest.raises(FoldcamError, match=r"Motion JPEG.*rename it to raw\.mjpeg"):
        open_source(file=str(path))
    path.rename(tmp_path / "raw.mjpeg")
    with open_source(file=str(tmp_path / "raw.mjpeg")) as source:
        assert len(list(source)) == 2


def test_a_photograph_with_a_preview_behind_it_is_one_picture(tmp_path):
    small = cv2.imencode(".jpg", cv2.resize(picture(9), (32, 24)))[1].tobytes()
    path = tmp_path / "phone.jpg"
    path.write_bytes(jpeg(3) + small)
    with open_source(file=str(path)) as source:
        assert source.stills
    # Two of the same size that the header announces, as cameras for three dimensions write.
    whole = jpeg(3)
    announced = whole[:2] + b"\xff\xe2\x00\x08MPF\0II" + whole[2:] + jpeg(4)
    path.write_bytes(announced)
    with open_source(file=str(path)) as source:
        assert source.stills


@contextlib.contextmanager
def camera(parts: list[bytes], pause: float = 0.01) -> Iterator[str]:
    """Motion JPEG over HTTP, the same parts again and again."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    for part in parts:
                        self.wfile.write(
                            b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: "
                            b"%d\r\n\r\n%s\r\n" % (len(part), part)
                        )
                        time.sleep(pause)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live"
    finally:
        server.shutdown()
        server.server_close()


def test_a_camera_goes_on_behind_an_empty_picture():
    monitor = Monitor()
    parts = [jpeg(number) for number in range(8)] + [b""]
    with camera(parts) as uri:
        monitor.add_stream(uri, True)
        with open_source(uri, flow=FlowOptions(keep="every")) as source:
            source.attach(Link(monitor, 0))
            frames = []
            for frame in source:
                frames.append(frame)
                if len(frames) == 60:
                    source.stop()
    (stream,) = monitor.snapshot().streams
    assert stream.reconnects == 0
    assert 4 <= stream.drops["unreadable"] <= 8
    # What was lost is a gap in the numbers.
    assert frames[-1].index - 59 == stream.drops["unreadable"]
    assert "cannot be decoded" in source.skipped[0].reason
