"""Results to a real broker on loopback, which comes, goes, refuses and stalls."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foldcam.runtime.sinks import NotWritten
from foldcam.runtime.sinks.mqtt import parse_broker
from foldcam.runtime.system.errors import FoldcamError

paho = pytest.importorskip("paho.mqtt.client")
BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_broker = pytest.mark.skipif(BROKER is None, reason="needs mosquitto")


@pytest.fixture(autouse=True)
def connects_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldcam.runtime.sinks.mqtt._BACKOFF_S", (0.1, 1.0))


def wait_for(condition, seconds: float = 20.0) -> None:
    """Until it holds; fails if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


class Broker:
    """A mosquitto of one test."""

    def __init__(self, folder: Path, lines: str = "allow_anonymous true") -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nuser root\n{lines}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(BROKER), "-c", str(self._config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def answers() -> bool:
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Listener:
    """Remembers what is published below a topic."""

    def __init__(self, port: int, **login: str) -> None:
        self.messages: list[tuple[str, str]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        self._client.reconnect_delay_set(1, 1)
        self._ready = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("cams/#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda client, data, message: self.messages.append(
            (message.topic, message.payload.decode())
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(10)

    def on(self, topic: str) -> list[str]:
        return [payload for where, payload in self.messages if where == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    made.start()
    yield made
    made.stop()


def sink_of(port: int, login: str = "", **options: Any):
    from foldcam.runtime.sinks.mqtt import MqttSink

    return MqttSink(f"mqtt://{login}127.0.0.1:{port}/cams/door", **options)


@needs_broker
def test_each_region_is_a_message_and_the_run_says_that_it_lives(broker, make_item, make_result):
    listener = Listener(broker.port)
    with sink_of(broker.port, embedding=False) as sink:
        wait_for(sink._client.is_connected)
        sink.write(make_item(3, make_result("owl", 0.5), make_result("cat", box=(1, 2, 3, 4))))
        sink.write(make_item(4))
        sink.publish_event({"event": "unknown"})
    wait_for(lambda: listener.on("cams/door/status") == ["online", "offline"])
    documents = [json.loads(payload) for payload in listener.on("cams/door")]
    listener.close()
    assert [(each["frame"], each["neighbors"][0]["label"]) for each in documents] == [
        (3, "owl"), (3, "cat"), (4, "owl"),
    ]  # fmt: skip
    assert documents[1]["box"] == {"x": 1, "y": 2, "width": 3, "height": 4}
    assert "embedding" not in documents[0]
    assert listener.on("cams/door/events") == ['{"event": "unknown"}']


@needs_broker
def test_a_broker_that_goes_and_comes_back_loses_results_but_no_event(broker, make_item):
    with sink_of(broker.port) as sink:
        sink._client.reconnect_delay_set(1, 1)
        wait_for(sink._client.is_connected)
        broker.stop()
        wait_for(lambda: not sink._client.is_connected())
        begun = time.monotonic()
        for index in range(50):
            with pytest.raises(NotWritten, match="is not connected"):
                sink.write(make_item(index))
        sink.publish_event({"event": "while away"})
        assert time.monotonic() - begun < 5  # it never waits
        broker.start()
        listener = Listener(broker.port)
        wait_for(sink._client.is_connected)
        sink.write(make_item(99))
        wait_for(lambda: listener.on("cams/door") and listener.on("cams/door/events"))
    listener.close()
    assert json.loads(listener.on("cams/door")[0])["frame"] == 99
    assert listener.on("cams/door/events") == ['{"event": "while away"}']


@needs_broker
def test_a_broker_that_is_not_there_yet_is_no_reason_not_to_begin(tmp_path, make_item):
    broker = Broker(tmp_path)
    begun = time.monotonic()
    with sink_of(broker.port) as sink:
        with pytest.raises(NotWritten):
            sink.write(make_item(0))
        assert time.monotonic() - begun < 5
        broker.start()
        wait_for(sink._client.is_connected)
        sink.write(make_item(1))
    broker.stop()


@needs_broker
def test_a_recorded_source_waits_for_the_broker(broker, make_item):
    listener = Listener(broker.port)
    with sink_of(broker.port, patient=True) as sink:
        for index in range(2000):
            sink.write(make_item(index))
    wait_for(lambda: len(listener.on("cams/door")) == 2000)
    listener.close()


def test_but_not_for_one_that_never_comes(make_item, monkeypatch):
    from foldcam.runtime.sinks import mqtt

    monkeypatch.setattr(mqtt, "_PATIENCE_S", 0.1)
    with sink_of(free_port(), patient=True) as sink:
        begun = time.monotonic()
        for index in range(200):
            with pytest.raises(NotWritten):
                sink.write(make_item(index))
        assert time.monotonic() - begun < 10


@needs_broker
def test_name_and_password_are_percent_decoded_and_never_said(tmp_path, make_item, caplog):
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "me@home", "p@ss/w:rd"], check=True
    )
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    from foldcam.runtime.system.logs import log

    log.propagate = True
    listener = Listener(broker.port, username="me@home", password="p@ss/w:rd")
    with sink_of(broker.port, "me%40home:p%40ss%2Fw%3Ard@") as sink:
        wait_for(sink._client.is_connected)
        sink.write(make_item(0))
        wait_for(lambda: listener.on("cams/door"))
        assert "***@127.0.0.1" in str(sink.output)
        assert "p@ss" not in str(sink.output)
    listener.close()
    with sink_of(broker.port, "me%40home:wrong@") as sink:
        wait_for(lambda: sink._refused)
        with pytest.raises(NotWritten, match="refuses the connection") as caught:
            sink.write(make_item(0))
    broker.stop()
    assert "wrong" not in str(caught.value) + caplog.text
    assert "p@ss" not in caplog.text


@needs_broker
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls_checks_the_certificate(tmp_path, make_item):
    from foldcam.runtime.sinks.mqtt import MqttSink

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    broker = Broker(tmp_path, f"allow_anonymous true\ncertfile {certificate}\nkeyfile {key}")
    broker.start()
    uri = f"mqtts://localhost:{broker.port}/cams/door"
    with MqttSink(f"{uri}?ca={certificate}") as sink:
        wait_for(sink._client.is_connected)
        sink.write(make_item(0))
    with MqttSink(uri) as sink:
        time.sleep(0.5)
        assert not sink._client.is_connected()
    broker.stop()
    with pytest.raises(FoldcamError, match=r"certificates in .*none\.pem cannot be read"):
        MqttSink(f"{uri}?ca={tmp_path}/none.pem")


def test_a_broker_that_takes_nothing_stalls_nobody(make_item):
    """It accepts the connection and then reads no more: what waits is bounded."""
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def accept() -> None:
        client, _ = server.accept()
        client.recv(1024)
        client.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
        held.append(client)

    held: list[socket.socket] = []
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    with sink_of(server.getsockname()[1]) as sink:
        wait_for(sink._client.is_connected)
        item = make_item(0)
        object.__setattr__(item.frame, "source", "x" * 50_000)
        reasons, begun = [], time.monotonic()
        for _ in range(2000):
            try:
                sink.write(item)
            except NotWritten as reason:
                reasons.append(str(reason))
        assert len(reasons) > 1000
        assert all("takes less than there is" in reason for reason in reasons)
        assert time.monotonic() - begun < 20
        assert len(sink._client._out_packet) <= 201
        thread.join()
        held[0].close()
    server.close()


def test_a_host_that_does_not_answer_does_not_hold_up_the_end(monkeypatch):
    asked = threading.Event()

    def hanging(self):
        asked.set()
        time.sleep(60)

    monkeypatch.setattr("foldcam.runtime.sinks.mqtt._FAREWELL_S", 0.5)
    monkeypatch.setattr(paho.Client, "_create_socket", hanging)
    with sink_of(9):
        assert asked.wait(10)
        begun = time.monotonic()
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://b/t", "begins with mqtt://"),
        ("mqtt:///t", "has no host"),
        ("mqtt://me:secret@b", "has no topic"),
        ("mqtt://b:99999/t", "its port is no number"),
        ("mqtt://me:secret@b:port/t", "its port is no number"),
        ("mqtt://b/a/#", "holds neither"),
        ("mqtt://b/a+b", "holds neither"),
        ("mqtt://b/t?qos=2", "has the option 'qos'"),
        ("mqtt://[::1/t", "no URI"),
    ],
)
def test_addresses_that_are_none(uri, message):
    with pytest.raises(FoldcamError, match=message) as caught:
        parse_broker(uri)
    assert "secret" not in str(caught.value)


def test_an_address_in_full():
    broker = parse_broker("mqtts://u%3As:p%40w@[::1]:99/a/b%20c?ca=x.pem&client_id=me")
    assert (broker.host, broker.port, broker.topic, broker.tls) == ("::1", 99, "a/b c", True)
    assert (broker.user, broker.password) == ("u:s", "p@w")
    assert (broker.ca, broker.client_id, broker.shown) == (
        "x.pem",
        "me",
        "mqtts://***@[::1]:99/a/b%20c",
    )
    assert "p@w" not in repr(broker)
    assert parse_broker("mqtt://b/t").port == 1883
