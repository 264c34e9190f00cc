"""No credential leaves by a message, however it was written."""

from __future__ import annotations

import io
import json
import logging
import time

import pytest

from runtime.logs import configure, log
from runtime.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:secret@cam/live", "rtsp://***@cam/live"),
        ("rtsp://me:se@cret@cam:554/live", "rtsp://***@cam:554/live"),
        ("rtsp://me:se%40cret@cam", "rtsp://***@cam"),
        ("rtsp://me:se/cret@cam/live", "rtsp://***@cam/live"),
        ("rtsp://me:se?cret#@cam/live", "rtsp://***@cam/live"),
        ("rtsp://secret@[::1]:554/", "rtsp://***@[::1]:554/"),
        ("rtsp://me:secret%40cam/live", "rtsp://***/live"),
        ("http://cam/mjpg?token=secret&fps=5", "http://cam/mjpg?token=***&fps=5"),
        ("http://cam/mjpg?fps=5&API_KEY=secret", "http://cam/mjpg?fps=5&API_KEY=***"),
        ("http://cam/?%74oken=secret", "http://cam/?%74oken=***"),
        ("http://cam/?%2574oken=secret", "http://cam/?%2574oken=***"),
        ("http://cam/#access_token=secret", "http://cam/#access_token=***"),
        ("http://cam/?user=secret;pwd=secret", "http://cam/?user=***;pwd=***"),
        ("http://me:secret@cam/?sig=secret", "http://***@cam/?sig=***"),
        ("MQTT://me:secret@b:1883/t is gone", "MQTT://***@b:1883/t is gone"),
        (
            'no "mqtts://a:secret@b/t" and http://c:secret@d.',
            'no "mqtts://***@b/t" and http://***@d.',
        ),
        # What is no secret stays as it is.
        ("http://cam/feed@2x.jpg", "http://cam/feed@2x.jpg"),
        ("http://cam:8080/feed@2x?every=2", "http://cam:8080/feed@2x?every=2"),
        ("me@example.org has no address", "me@example.org has no address"),
        ("photos/a@b.jpg", "photos/a@b.jpg"),
    ],
)
def test_addresses(text, shown):
    assert redacted(text) == shown
    assert "secret" not in redacted(text)


def test_a_long_text_takes_no_long_time():
    begun = time.process_time()
    for text in (
        "a://" + "@" * 200_000,
        "://" * 100_000,
        "a://b?" + "token=x&" * 50_000,
        "a" * 10**6,
    ):
        redacted(text)
    assert time.process_time() - begun < 5


@pytest.fixture
def stream():
    """Where the log goes during a test."""
    stream = io.StringIO()
    yield stream
    for handler in list(log.handlers):
        log.removeHandler(handler)


def test_text_lines_are_one_line_each_without_credentials(stream):
    configure("text", "info", stream)
    log.info("opened %s\nas asked", "rtsp://me:secret@cam/live")
    log.debug("not shown")
    log.warning("gone")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" info: opened rtsp://***@cam/live\\nas asked")
    assert second.endswith(" warning: gone")


def test_json_lines_have_fields_without_credentials(stream):
    configure("json", "debug", stream)
    data = {
        "camera": 3, "uri": "http://cam/?token=secret", "more": ["mqtt://a:secret@b/t", None, 1.5],
        "message": "another", "odd": object,
    }  # fmt: skip
    log.debug("state of %s", "cam", extra={"data": data})
    document = json.loads(stream.getvalue())
    assert document["message"] == "state of cam"
    assert (document["level"], document["camera"]) == ("debug", 3)
    assert document["uri"] == "http://cam/?token=***"
    assert document["more"] == ["mqtt://***@b/t", None, 1.5]
    assert document["time"].endswith("Z")


def test_an_exception_is_named_without_a_traceback_or_credentials(stream):
    configure("json", "info", stream)
    try:
        raise OSError("rtsp://me:secret@cam refused")
    except OSError:
        log.exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "failed: OSError: rtsp://***@cam refused"


def test_a_closed_stream_ends_nothing(stream):
    configure("text", "info", stream)
    stream.close()
    log.warning("nobody listens")


def test_configuring_twice_writes_once(stream):
    configure("text", "info", io.StringIO())
    configure("text", "warning", stream)
    log.info("no")
    log.warning("yes")
    assert len(stream.getvalue().splitlines()) == 1
    assert not logging.getLogger("foldcam").propagate
