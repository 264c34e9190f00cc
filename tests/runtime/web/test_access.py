"""The token, and the cookie that stands for it."""

from __future__ import annotations

import pytest

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.web.access import Access, same_origin

TOKEN = "0123456789abcdef"


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {token}".encode())]


def cookie(access: Access) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", b"other=1; " + access.cookie(False).partition(";")[0].encode())]


def test_loopback_needs_no_token():
    access = Access(None, loopback=True)
    assert not access.needs_token
    assert access.allows([])


def test_every_other_address_needs_one():
    with pytest.raises(FoldcamError, match="needs a token of at least 16 characters"):
        Access(None, loopback=False)


def test_fifteen_characters_are_too_few_and_sixteen_are_not():
    with pytest.raises(FoldcamError, match="has 15 characters, and needs at least 16"):
        Access(TOKEN[:-1], loopback=True)
    assert Access(TOKEN, loopback=True).needs_token


@pytest.mark.parametrize(
    "token", ["sixteen letters!", "sixteen\tletters!", "sechzehn-zeichën", "x" * 513]
)
def test_a_token_that_no_header_carries_is_refused(token):
    with pytest.raises(FoldcamError, match="other than visible ASCII"):
        Access(token, loopback=False)


def test_a_token_that_is_refused_is_not_repeated():
    for token in ("short", "sechzehn-zeichën"):
        with pytest.raises(FoldcamError) as refused:
            Access(token, loopback=False)
        assert token not in str(refused.value)


def test_the_token_opens_and_nothing_near_it():
    access = Access(TOKEN, loopback=False)
    assert access.allows(bearer(TOKEN))
    assert access.allows([(b"authorization", b"bearer  " + TOKEN.encode())])
    for wrong in ("", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), " "):
        assert not access.allows(bearer(wrong))
    assert not access.allows([])
    assert not access.allows([(b"authorization", TOKEN.encode())])
    assert not access.allows([(b"authorization", b"Basic " + TOKEN.encode())])


def test_the_cookie_opens_is_the_same_after_a_restart_and_reveals_no_token():
    access, restarted = Access(TOKEN, loopback=False), Access(TOKEN, loopback=False)
    assert restarted.allows(cookie(access))
    assert TOKEN not in access.cookie(False)
    assert not Access(TOKEN + "1", loopback=False).allows(cookie(access))
    name = cookie(access)[0][1].removeprefix(b"other=1; ").partition(b"=")[0]
    assert not access.allows([(b"cookie", name + b"=" + TOKEN.encode())])
    assert not access.allows([(b"cookie", name + b"=")])
    assert not access.allows([(b"cookie", name)])


def test_two_runs_on_one_host_do_not_end_each_others_login():
    one, other = Access(TOKEN, loopback=False), Access(TOKEN[::-1], loopback=False)
    both = [(b"cookie", cookie(one)[0][1] + b"; " + cookie(other)[0][1])]
    assert one.allows(both)
    assert other.allows(both)
    assert one.no_cookie().partition("=")[0] == one.cookie(False).partition("=")[0]


def test_the_cookie_is_for_this_site_only_and_out_of_reach_of_scripts():
    text = Access(TOKEN, loopback=False).cookie(False)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(text.split("; "))
    assert "Secure" not in text
    assert Access(TOKEN, loopback=False).cookie(https=True).endswith("; Secure")


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (None, "localhost:80", True),
        ("http://localhost:80", "localhost:80", True),
        ("https://Cam.example.org", "cam.example.org", True),
        ("http://localhost:81", "localhost:80", False),
        ("http://evil.example", "localhost", False),
        ("null", "localhost", False),
        ("file://", "localhost", False),
        ("http://", "", False),
    ],
)
def test_a_browser_says_from_which_page_it_comes(origin, host, same):
    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    assert same_origin(headers) is same
