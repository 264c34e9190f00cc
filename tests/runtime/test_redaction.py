"""No credential leaves by a message, however it was written."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from urllib.parse import quote

import pytest

from foldcam.runtime.system.logs import configure, log
from foldcam.runtime.system.redaction import bare_address, keep_secret, redacted, redacted_value

SECRET = "7hush up'\"<qz9>#x"
HARD = [
    f"rtsp://me:{SECRET}@cam:554/live",
    f"http://cam/video?fps=5&token={SECRET}",
    f"rtsp://cam/user=me&password={SECRET}",
    f"mqtt://me:{SECRET}@broker/topic",
]


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
        # In a path, and in an address within an address.
        (
            "rtsp://cam/user=admin&password=secret&channel=1",
            "rtsp://cam/user=***&password=***&channel=1",
        ),
        ("rtsp://cam/user=admin_password=secret_channel=1.sdp", "rtsp://cam/user=***"),
        ("rtsp://cam/channel=1_password=secret", "rtsp://cam/channel=***"),
        ("rtsp://cam/me:secret@live/1", "rtsp://cam/***@live/1"),
        ("http://cam/token/secret/live", "http://cam/token/***/live"),
        ("http://proxy/rtsp://me:secret@cam/live", "http://proxy/***@cam/live"),
        ("http://proxy/?url=rtsp://me:secret@cam/live", "http://proxy/?url=***"),
        ("http://proxy/?url=rtsp%3A%2F%2Fme%3Asecret%40cam", "http://proxy/?url=***"),
        ("http://cam/?to=x%3Fpassword%3Dsecret", "http://cam/?to=***"),
        ("http://cam/?loginuse=me&loginpas=secret&auth=secret", None),
        ("http://cam/?apikey=secret&usr=me&pwd=secret", None),
        # Passwords that end an address in running text.
        ('rtsp://me:sec"secret@cam/live is gone', "rtsp://***@cam/live is gone"),
        ("'rtsp://me:sec'secret@cam/live' is gone", "'rtsp://***@cam/live' is gone"),
        ("rtsp://me:a<secret>@cam/live", "rtsp://***@cam/live"),
        ("rtsp://me:a secret@cam/live is gone", "rtsp://***@cam/live is gone"),
        ("rtsp://me:secret", "rtsp://***"),
        # What is no secret stays as it is.
        ("http://cam/live/1?channel=2&subtype=0", "http://cam/live/1?channel=2&subtype=0"),
        ("give http://host:port/path", "give http://host:port/path"),
        ("'rtsp://cam:554' and 'a@b'", "'rtsp://cam:554' and 'a@b'"),
        ("http://cam/feed@2x.jpg", "http://cam/feed@2x.jpg"),
        ("http://cam:8080/feed@2x?every=2", "http://cam:8080/feed@2x?every=2"),
        ("me@example.org has no address", "me@example.org has no address"),
        ("photos/a@b.jpg", "photos/a@b.jpg"),
    ],
)
def test_addresses(text, shown):
    assert shown is None or redacted(text) == shown
    assert "secret" not in redacted(text)


@pytest.mark.parametrize("address", HARD)
def test_an_address_that_was_given_is_known_word_for_word(address):
    """Where it ends cannot be seen in running text; what a library quotes of it is a part."""
    keep_secret(address)
    for text in (
        f"cannot open {address} now",
        f"cannot open {address!r} now",
        json.dumps({"uri": address}),
        f"cannot open {quote(address, safe='')} now",
        f"[tcp] {address.partition('://')[2]} refused",
        f"login with {SECRET} failed",
        f"login with {SECRET!r} failed",
    ):
        shown = redacted(text)
        assert not [part for part in re.findall("[A-Za-z0-9]{3,}", SECRET) if part in shown], shown
    assert SECRET not in bare_address(address)
    assert redacted_value([f"a {SECRET} b"]) == [f"a {SECRET} b"]  # a label, not a message


def test_a_word_that_holds_a_password_is_no_secret():
    keep_secret("rtsp://me:opqr@cam")
    assert redacted("mnopqrst, and opqr") == "mnopqrst, and ***"


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
