"""Addresses taken apart: what they name, and what never shows."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldcam.runtime.sources.address import SCHEMES, STREAMS, Address, parse_address
from foldcam.runtime.sources.options import SourceOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import bare_address


def test_a_camera_by_number_by_device_and_by_a_lasting_name():
    assert parse_address("/dev/video3").name == "camera 3"
    assert parse_address("v4l2:///dev/video3").stem == "camera-3"
    usb = parse_address("v4l2:///dev/v4l/by-id/usb-Acme_Cam-video-index0")
    assert (usb.kind, usb.target) == ("v4l2", "/dev/v4l/by-id/usb-Acme_Cam-video-index0")
    assert usb.stem == "usb-Acme-Cam-video-index0"


def test_the_query_says_more_than_the_flags():
    flags = SourceOptions(width=640, height=480, fps=15.0, rotate=90)
    found = parse_address("v4l2:///dev/video0?size=1920x1080&rate=30&codec=mjpg", flags).options
    assert (found.width, found.height, found.fps, found.codec) == (1920, 1080, 30.0, "MJPG")
    assert found.rotate == 90
    assert parse_address("v4l2:///dev/video0?width=800", flags).options.height == 480


def test_a_test_pattern():
    found = parse_address("test://?size=320x240&rate=25&frames=100&seed=4")
    assert (found.kind, found.frames, found.seed, found.options.fps) == ("pattern", 100, 4, 25.0)
    assert parse_address("test://").frames is None


def test_raw_frames_need_a_size():
    found = parse_address("-", SourceOptions(width=4, height=2))
    assert (found.kind, found.name) == ("raw", "standard input")
    with pytest.raises(FoldcamError, match="--width 640"):
        parse_address("-")


def test_a_file_uri_is_a_path():
    assert parse_address("file:///a%20b/c%3F.mp4").target == "/a b/c?.mp4"
    assert parse_address("a/b c?.mp4").target == "a/b c?.mp4"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("v4l2://dev/video0", "three slashes"),
        ("v4l2:///dev/video0?colour=red", "'colour' is not known"),
        ("v4l2:///dev/video0?size=640", "size='640' is no whole number"),
        ("v4l2:///dev/video0?size=0x480", "from 1 to 16384"),
        ("v4l2:///dev/video0?rate=nan", "rate='nan' is no number"),
        ("v4l2:///dev/video0?rate=0", "is no number from 0.01"),
        ("v4l2:///dev/video0?rate=1.2.3", "is no number"),
        ("v4l2:///dev/video0?codec=H", "no FourCC"),
        ("csi://left", "csi://0"),
        ("csi://0?seed=1", "'seed' is not known"),
        ("test://x", "test://[?]size"),
        ("test://?frames=0", "frames='0'"),
        ("ftp://user:secret@host/x?token=abc", "scheme 'ftp'"),
    ],
)
def test_a_mistake_is_named_without_credentials(uri, message):
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_address(uri)
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://u:p@h:554/x", "rtsp://***@h:554/x"),
        ("rtsp://u:p@h/x?token=abc#f", "rtsp://***@h/x?***"),
        ("rtsp://u:p%40q@h/x", "rtsp://***@h/x"),
        ("rtsp://u:p@ss@h/x", "rtsp://***@h/x"),
        ("rtsp://u:p@ss/word@h/x", "rtsp://***@h/x"),
        ("rtsp://u:pass/word@h/x", "rtsp://***@h/x"),
        ("rtsp://u:pass?word@h/x", "rtsp://***"),
        ("rtsp://u:pass#word@h/x", "rtsp://***"),
        ("rtsp://[::1]:8554/x", "rtsp://[::1]:8554/x"),
        ("rtsp://h/x@y", "rtsp://h/x@y"),
        ("http://h#token", "http://h#***"),
        ("udp://:5000", "udp://:5000"),
        ("rtsp://h/\x1b[2J", "rtsp://h/\\x1b[2J"),
        ("no address", "no address"),
    ],
)
def test_what_is_shown_of_an_address(uri, shown):
    assert bare_address(uri) == shown


def outcome(text: str) -> Address | str:
    """The address, or the sentence; anything else that is raised fails the test."""
    try:
        return parse_address(text, SourceOptions(width=8, height=8))
    except FoldcamError as error:
        return str(error)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_one_sentence(text):
    assert outcome(text)


@given(
    st.sampled_from(SCHEMES),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60),
)
def test_any_rest_of_an_address_is_read_or_refused(scheme, rest):
    found = outcome(f"{scheme}://{rest}")
    assert isinstance(found, Address) or "\n" not in found


# A secret is recognisable wherever it turns up: no host, path or scheme holds these letters.
SECRETS = st.text("QXZqxz", min_size=6, max_size=12)
ODD = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=6)


@given(st.sampled_from(STREAMS), SECRETS, SECRETS, SECRETS, ODD, st.booleans())
def test_credentials_are_nowhere_but_in_the_target(scheme, user, password, token, odd, encoded):
    secret = quote(password + odd, safe="") if encoded else password + odd
    uri = f"{scheme}://{user}:{secret}@camera.local:554/stream/1?token={token}&x={token}"
    found = parse_address(uri)
    assert found.target == uri
    for shown in (found.name, found.stem, repr(found), bare_address(uri)):
        assert not any(part in shown for part in (user, password, token))


@given(st.sampled_from(["v4l2", "csi", "test", "gopher"]), SECRETS, SECRETS)
def test_nor_are_they_in_what_a_mistake_is_told_with(scheme, user, password):
    with pytest.raises(FoldcamError) as caught:
        parse_address(f"{scheme}://{user}:{password}@host/x")
    assert user not in str(caught.value)
    assert password not in str(caught.value)
