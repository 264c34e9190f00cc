"""What one watching browser gets, and what a slow one costs."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from foldcam.runtime.web import broadcast, connections, stream


def header_of(data: bytes):
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length])


def pictures(client, count: int) -> list[int]:
    """Numbers of the next pictures, none of which is acknowledged."""
    numbers: list[int] = []
    while len(numbers) < count:
        said = client.recv(5)
        if isinstance(said, bytes):
            numbers.append(header_of(said)["number"])
    return numbers


def to_the_end(client) -> None:
    """Read until the server closes."""
    while True:
        client.recv(5)


def until_silence(client) -> None:
    """Read texts until none comes for less than the second between two."""
    while isinstance(client.recv(0.3), str):
        pass


def say(client, **said) -> None:
    client.send(json.dumps(said))


def test_the_first_words_tell_what_the_model_is(serve):
    with serve().watch() as client:
        hello = json.loads(client.recv(5))
    assert hello["kind"] == "hello"
    assert (hello["continuous"], hello["labels"], hello["rows"]) == (False, 3, 3)
    assert len(hello["palettes"]["turbo"]) == 6 * 256


def test_a_model_of_an_outcome_tells_its_range(serve, outcome_with):
    with serve(outcome_with()).watch() as client:
        hello = json.loads(client.recv(5))
    assert hello["continuous"] is True
    assert hello["outcome"] == {"low": 10.0, "median": 20.0, "high": 60.0}


def test_the_status_comes_every_second(serve):
    with serve().watch() as client:
        client.recv(5)
        status = json.loads(client.recv(5))
    assert status["kind"] == "status"
    assert status["streams"][0]["state"] == "streaming"
    assert status["clients"] == 1


def test_who_watches_nothing_is_sent_no_picture_and_none_is_encoded(serve, make_item, monkeypatch):
    encoded = []
    encode = broadcast.encode_packet
    monkeypatch.setattr(broadcast, "encode_packet", lambda item: encoded.append(1) or encode(item))
    served = serve()
    with served.watch() as client:
        client.recv(5)
        for index in range(20):
            served.feed(make_item(index))
            time.sleep(0.01)
        assert isinstance(client.recv(5), str)
        assert encoded == []
        say(client, watch=0)
        assert pictures(client, 1) == [19]
        assert encoded == [1]


def test_a_frame_is_encoded_once_for_all_who_watch(serve, make_item, monkeypatch):
    encoded = []
    encode = broadcast.encode_packet
    monkeypatch.setattr(broadcast, "encode_packet", lambda item: encoded.append(1) or encode(item))
    served = serve()
    served.feed(make_item(3))
    with served.watch() as one, served.watch() as two, served.watch() as three:
        for client in (one, two, three):
            say(client, watch=0)
        assert [pictures(client, 1) for client in (one, two, three)] == [[3], [3], [3]]
    assert encoded == [1]


def test_a_frame_that_cannot_be_encoded_is_left_out_and_said_once(serve, make_item, caplog):
    served = serve(fps=100)
    with served.watch() as client:
        say(client, watch=0)
        for index in range(3):
            served.feed(make_item(index, size=(0, 0)))
            time.sleep(0.05)
        served.feed(make_item(3))
        assert pictures(client, 1) == [3]
    said = [record for record in caplog.records if record.name == "foldcam.runtime.web.broadcast"]
    assert len(said) == 1
    assert "frame 0 of stream 0 is not shown" in said[0].getMessage()


def test_a_client_that_shows_nothing_is_sent_two_pictures_and_then_the_newest(serve, make_item):
    served = serve(fps=100)
    with served.watch() as slow, served.watch() as quick:
        say(slow, watch=0)
        say(quick, watch=0)
        seen = []
        for index in range(30):
            served.feed(make_item(index))
            seen += pictures(quick, 1)
            say(quick, shown=True)
        assert seen == list(range(30))
        assert pictures(slow, 2) == [0, 1]
        say(slow, shown=True)
        assert pictures(slow, 1) == [29]


def test_shown_gives_no_more_credit_than_there_was(serve, make_item):
    served = serve(fps=100)
    with served.watch() as client:
        for _ in range(5):
            say(client, shown=True)
        say(client, watch=0)
        for index in range(10):
            served.feed(make_item(index))
            time.sleep(0.03)
        assert pictures(client, 2) == [0, 1]
        with pytest.raises(TimeoutError):
            until_silence(client)


def test_no_more_pictures_are_sent_than_were_asked_for(serve, make_item):
    served = serve(fps=10)
    begun = time.monotonic()
    with served.watch() as client:
        say(client, watch=0)
        count = 0
        while time.monotonic() - begun < 1.0:
            served.feed(make_item(count))
            count += 1
            time.sleep(0.005)
            try:
                while True:
                    if isinstance(client.recv(0), bytes):
                        say(client, shown=True)
            except TimeoutError:
                pass
    assert served.page._shown.latest.of(0).count == count
    # At most ten a second, and the first at once; how many depends on the machine.
    assert count > 20


def test_each_stream_is_watched_by_itself(serve, make_item):
    served = serve(streams=2)
    served.feed(make_item(5, stream=0), make_item(8, stream=1))
    with served.watch() as client:
        say(client, watch=1)
        assert pictures(client, 1) == [8]
        say(client, shown=True, watch=0)
        assert pictures(client, 1) == [5]
        say(client, shown=True, watch=1)
        assert pictures(client, 1) == [8]
        say(client, watch=7)
        served.feed(make_item(6, stream=0), make_item(9, stream=1))
        assert isinstance(client.recv(5), str)


def test_one_viewer_too_many_is_refused_and_may_come_when_another_goes(serve):
    served = serve(clients=2)
    with served.watch() as one, served.watch():
        with pytest.raises(InvalidStatus) as refused:
            served.watch().__enter__()
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["retry-after"] == "10"
        one.close()
        with served.watch() as three:
            assert "hello" in three.recv(5)


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", "3", '{"watch": "0"}', '{"watch": -1}', '{"watch": true}', '{"watch": 1e9}',
     '{"watch": 99999999999}', "[" * 1000, b"\x00\x01"],
)  # fmt: skip
def test_who_talks_nonsense_is_disconnected(serve, said):
    with serve().watch() as client:
        client.recv(5)
        client.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(client)
    assert closed.value.rcvd.code == 1008


def test_a_message_too_long_ends_the_connection(serve):
    with serve().watch() as client:
        client.recv(5)
        client.send(" " * 5000)
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(client)
    assert closed.value.rcvd.code == 1009


def test_who_owes_an_answer_for_too_long_is_disconnected(serve, make_item, monkeypatch):
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    served = serve()
    served.feed(make_item())
    with served.watch() as client:
        say(client, watch=0)
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(client)
    assert closed.value.rcvd.code == 4008


def handshake(served) -> socket.socket:
    """A WebSocket that will never read anything."""
    client = socket.socket()
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect((served.host, served.port))
    client.sendall(
        f"GET /stream HTTP/1.1\r\nHost: {served.authority}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    # {"watch": 0}, masked with zeros, as a client has to.
    text = b'{"watch":0}'
    client.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    return client


def test_a_stalled_client_costs_the_others_nothing(serve, make_item):
    served = serve(fps=100)
    stalled = [handshake(served) for _ in range(5)]
    try:
        with served.watch() as client:
            say(client, watch=0)
            got = []
            for index in range(40):
                served.feed(make_item(index, size=(640, 480)))
                got += pictures(client, 1)
                say(client, shown=True)
            assert got == list(range(40))
    finally:
        for one in stalled:
            one.close()


def test_leaving_is_quick_with_clients_that_never_read(serve, make_item):
    served = serve()
    served.feed(make_item(size=(640, 480)))
    clients = [handshake(served) for _ in range(5)]
    clients += [socket.create_connection((served.host, served.port)) for _ in range(5)]
    while len(served.page._server._server.server_state.connections) < 10:
        time.sleep(0.01)
    begun = time.monotonic()
    served.page.__exit__(None, None, None)
    # Far less than any of the timeouts that a client could wait for.
    assert time.monotonic() - begun < 4.0
    for one in clients:
        one.close()
    deadline = time.monotonic() + 5.0
    while any(thread.name.startswith("live-page") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_a_connection_that_asks_nothing_is_ended(serve, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    served = serve()
    with socket.create_connection((served.host, served.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: local")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_an_answer_that_is_not_fetched_is_ended(serve, make_item, monkeypatch):
    monkeypatch.setattr(connections, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(connections, "SWEEP_SECONDS", 0.1)
    served = serve()
    item = make_item(size=(1200, 1200))
    # Noise does not compress: more than the buffers of a socket hold.
    item.frame.image[:] = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    served.feed(item)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect((served.host, served.port))
        client.sendall(b"GET /api/snapshot.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        state = served.page._server._server.server_state
        deadline = time.monotonic() + 8.0
        while not state.connections:
            assert time.monotonic() < deadline
        while state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_connection_that_is_one_too_many_is_refused_if_nobody_can_give_way(serve, monkeypatch):
    """As if all others were being answered."""
    monkeypatch.setattr(connections, "_idlest", lambda *_: None)
    served = serve(clients=1)
    held = [socket.create_connection((served.host, served.port), timeout=10) for _ in range(40)]
    try:
        refused: list[bytes] = []
        deadline = time.monotonic() + 10.0
        while len(refused) < 40 - 34 and time.monotonic() < deadline:
            ready, _, _ = select.select(held, [], [], 0.1)
            for one in ready:
                answer = one.recv(1000)
                if answer:
                    refused.append(answer[:12])
        assert refused == [b"HTTP/1.1 503"] * 6
    finally:
        for one in held:
            one.close()
    deadline = time.monotonic() + 5.0
    while True:
        try:
            assert served.get("/healthz").status in (200, 503)
            break
        except OSError:
            assert time.monotonic() < deadline


def test_there_is_a_limit_to_connections(serve):
    served = serve(clients=1)
    held = [socket.create_connection((served.host, served.port), timeout=10) for _ in range(40)]
    try:
        # The oldest six have given way.
        for one in held[:6]:
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        assert select.select(held[6:], [], [], 0.5)[0] == []
        assert len(served.page._server._server.server_state.connections) == 34
    finally:
        for one in held:
            one.close()
