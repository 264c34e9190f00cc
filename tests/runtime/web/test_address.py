"""Where the page is served, and under which names."""

from __future__ import annotations

import socket

import pytest

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.web.address import HostNames, bind, is_loopback, resolve, url_host


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False), ("::", False), ("192.168.0.7", False), ("fe80::1%eth0", False),
    ],
)  # fmt: skip
def test_only_this_machine_reaches_loopback(host, loopback):
    assert is_loopback(host) is loopback


def test_localhost_is_the_address_that_browsers_try_first():
    family, place = resolve("localhost", 80)
    assert (family, place) == (socket.AF_INET, ("127.0.0.1", 80))


def test_a_name_without_an_address_is_refused():
    with pytest.raises(FoldcamError, match="has no address here"):
        resolve("no-such-host.invalid", 80)


def test_a_port_in_use_is_said_in_one_sentence():
    with bind(socket.AF_INET, ("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(FoldcamError, match=rf"127.0.0.1:{port}: the port is in use"):
            bind(socket.AF_INET, ("127.0.0.1", port))


def test_an_address_of_another_machine_cannot_be_bound():
    with pytest.raises(FoldcamError, match="has no such address"):
        bind(socket.AF_INET, ("192.0.2.1", 0))


@pytest.mark.parametrize(
    "header",
    ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "10.0.0.7", "cam.example.org",
     "cam.example.org.:443"],
)  # fmt: skip
def test_addresses_and_known_names_are_ours(header):
    assert header in HostNames("0.0.0.0", ["Cam.example.org:8443"])


@pytest.mark.parametrize(
    "header",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "localhost:",
     "localhost:123456", "[::1", "user@localhost", "localhost/x", "127.0.0.1\t"],
)  # fmt: skip
def test_a_name_that_somebody_else_may_point_here_is_not_ours(header):
    assert header not in HostNames("127.0.0.1")


def test_an_ipv6_address_has_brackets_in_a_url():
    assert (url_host("::1"), url_host("10.0.0.1")) == ("[::1]", "10.0.0.1")


def test_small_answers_are_sent_at_once(serve):
    """Without TCP_NODELAY an answer in two parts waits 40 ms for the client's acknowledgement."""
    served = serve()
    with socket.create_connection((served.host, served.port), timeout=10) as client:
        client.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100)
        state = served.page._server._server.server_state
        (connection,) = state.connections
        own = connection.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
