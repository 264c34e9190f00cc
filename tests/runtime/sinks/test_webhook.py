"""JSON lines to a web server, which may be away, slow, or say no."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from foldcam.runtime.sinks import NotWritten, webhook
from foldcam.runtime.sinks.webhook import TOKEN_VARIABLE, WebhookSink, parse_webhook
from foldcam.runtime.system.errors import FoldcamError


class Web:
    """A server that remembers what is posted, and answers as it is asked to."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.connections: list[socket.socket] = []
        self.answer: Callable[[int], int] = lambda number: 204
        self.asked = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                web.connections.append(self.connection)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.asked += 1
                status = web.answer(web.asked)
                if status < 300:
                    web.bodies.append(body)
                    web.headers.append(dict(self.headers))
                    web.paths.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *given: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *given: Any) -> None:
                pass  # who is refused by its client's certificate check

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def frames(self) -> list[int]:
        return [json.loads(body)["frame"] for body in self.bodies]

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            for connection in self.connections:  # their threads would serve them on
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(webhook, "_BACKOFF_S", (0.02, 0.1))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def free_port() -> int:
    made = Web()
    made.stop()
    return made.port


def wait_for(ready: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_each_line_is_posted_in_order_as_in_the_file(web, make_item, make_result):
    with WebhookSink(f"http://127.0.0.1:{web.port}/hooks/a?b=c", embedding=False) as sink:
        sink.write(make_item(0, make_result("owl", 0.5), make_result("cat", box=(1, 2, 3, 4))))
        for index in range(1, 30):
            sink.write(make_item(index))
    assert web.frames == [0, 0, *range(1, 30)]
    first, second = (json.loads(body) for body in web.bodies[:2])
    assert first["neighbors"][0] == {"row": 7, "label": "owl", "similarity": 0.5}
    assert second["box"] == {"x": 1, "y": 2, "width": 3, "height": 4}
    assert "embedding" not in first
    assert set(web.paths) == {"/hooks/a?b=c"}
    assert {headers["Content-Type"] for headers in web.headers} == {"application/json"}
    assert len({headers["Idempotency-Key"] for headers in web.headers}) == 31
    assert len(web.connections) == 1  # one connection serves all
    assert sink.losses() == (0, "")


def test_a_server_that_goes_and_comes_back_misses_nothing(web, make_item, caplog):
    webhook.log.propagate = True
    with WebhookSink(f"http://127.0.0.1:{web.port}/") as sink:
        sink.write(make_item(0))
        wait_for(lambda: web.bodies)
        port, before = web.port, web.frames
        web.stop()
        begun = time.monotonic()
        for index in range(1, 50):
            sink.write(make_item(index))
        assert time.monotonic() - begun < 5  # it never waits
        time.sleep(0.2)
        back = Web(port)
        wait_for(lambda: len(back.bodies) == 49)
    back.stop()
    assert before + back.frames == list(range(50))
    assert sink.losses() == (0, "")
    assert "trying again" in caplog.text
    assert "takes results again" in caplog.text


def test_500s_are_tried_again_with_the_same_key(web, make_item):
    keys: list[str] = []
    web.answer = lambda number: 503 if number % 3 else 200
    with WebhookSink(f"http://127.0.0.1:{web.port}/", patient=True) as sink:
        for index in range(20):
            sink.write(make_item(index))
    keys = [headers["Idempotency-Key"] for headers in web.headers]
    assert web.frames == list(range(20))
    assert web.asked == 60
    assert len(set(keys)) == 20
    assert sink.losses() == (0, "")


def test_a_frame_on_which_the_server_always_fails_does_not_hold_up_the_others(web, make_item):
    web.answer = lambda number: 500 if number <= webhook._MOST_ANSWERS else 200
    with WebhookSink(f"http://127.0.0.1:{web.port}/x", patient=True) as sink:
        for index in range(3):
            sink.write(make_item(index))
    assert web.frames == [1, 2]
    shown = f"http://127.0.0.1:{web.port}/***"
    assert sink.losses() == (1, f"{shown} answers 500 (Internal Server Error)")


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413])
def test_a_no_is_not_asked_again(web, make_item, status):
    web.answer = lambda number: status if number == 1 else 200
    with WebhookSink(f"http://127.0.0.1:{web.port}/", patient=True) as sink:
        for index in range(3):
            sink.write(make_item(index))
    assert (web.frames, web.asked) == ([1, 2], 3)
    lost, reason = sink.losses()
    assert lost == 1
    assert f"answers {status} (" in reason


def test_a_slow_server_is_waited_for_by_recorded_sources_only(web, make_item, monkeypatch):
    monkeypatch.setattr(webhook, "_MOST_WAITING", 10)
    monkeypatch.setattr(webhook, "_FAREWELL_S", 0.3)

    def slow(number: int) -> int:
        time.sleep(0.05)
        return 200

    web.answer = slow
    with WebhookSink(f"http://127.0.0.1:{web.port}/", patient=True) as sink:
        for index in range(30):
            sink.write(make_item(index))
    assert web.frames == list(range(30))
    web.bodies.clear()
    reasons, begun = [], time.monotonic()
    with WebhookSink(f"http://127.0.0.1:{web.port}/") as sink:
        for index in range(100):
            try:
                sink.write(make_item(index))
            except NotWritten as reason:
                reasons.append(str(reason))
        assert time.monotonic() - begun < 2
    assert all("takes less than there is" in reason for reason in reasons)
    refused = len(reasons)
    assert refused > 80
    assert time.monotonic() - begun < 5
    lost, reason = sink.losses()
    # The one that was on its way when it was given up may have arrived.
    assert 100 - refused - lost <= len(web.bodies) <= 100 - refused - lost + 1
    assert lost == 0 or "is slow" in reason


def test_a_server_that_never_answers_stalls_nobody(make_item, monkeypatch):
    monkeypatch.setattr(webhook, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(webhook, "_PATIENCE_S", 0.5)
    monkeypatch.setattr(webhook, "_FAREWELL_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun, refused = time.monotonic(), []
        with WebhookSink(f"http://127.0.0.1:{server.getsockname()[1]}/", patient=True) as sink:
            for index in range(100):
                try:
                    sink.write(make_item(index))
                except NotWritten as reason:
                    refused.append(str(reason))
        assert time.monotonic() - begun < 8
    assert len(refused) == 92
    assert "does not answer within 0.2 s" in refused[-1]
    assert sink.losses()[0] == 8


@pytest.mark.parametrize("kind", ["file", "variable", "address"])
def test_a_token_is_sent_and_shown_nowhere(web, make_item, tmp_path, monkeypatch, caplog, kind):
    webhook.log.propagate = True
    login, file = "", None
    if kind == "file":
        (tmp_path / "token").write_text("s3cret-token\nmore\n")
        file = str(tmp_path / "token")
    elif kind == "variable":
        monkeypatch.setenv(TOKEN_VARIABLE, "s3cret-token")
    else:
        login = "me%40home:s3cret-token@"
    web.answer = lambda number: 500 if number == 1 else 401 if number == 3 else 200
    with WebhookSink(f"http://{login}127.0.0.1:{web.port}/T0/s3cret-path?k=s3cret-q", file) as sink:
        for index in range(3):
            sink.write(make_item(index))
    assert len(web.bodies) == 2
    sent = web.headers[0]["Authorization"]
    expected = base64.b64encode(b"me@home:s3cret-token").decode()
    assert sent == (f"Basic {expected}" if login else "Bearer s3cret-token")
    said = f"{sink.output} {sink.losses()} {caplog.text} {sink._server}"
    assert "s3cret" not in said
    assert sink.output == f"http://127.0.0.1:{web.port}/***"
    assert "401" in said


def test_a_token_without_encryption_is_warned_of(monkeypatch, caplog):
    webhook.log.propagate = True
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    WebhookSink("http://example.org/")
    assert "without encryption" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read: No such file"), ("", "is empty"), ("a b", "holds no token")],
)
def test_a_token_file_that_cannot_be_used(tmp_path, text, message):
    if text is not None:
        (tmp_path / "token").write_text(text)
    with pytest.raises(FoldcamError, match=message):
        WebhookSink("https://example.org/", str(tmp_path / "token"))


def test_a_password_and_a_token_are_one_too_many(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    with pytest.raises(FoldcamError, match="give one of them"):
        WebhookSink("https://me:s3cret@example.org/")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/", "host/path", "", "https://", "https:///path", "https://host:0/",
        "https://me:s3cret@host:port/", "https://me:s3cret@host:99999/", "https://[::1/",
        "https://a b/", "https://" + "a" * 64 + "/", "https://a..b/", "https://host\r\nx/",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url):
    with pytest.raises(FoldcamError, match="is no web address") as caught:
        parse_webhook(url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_addresses_in_full():
    server = parse_webhook("https://münchen.example/a b?c=ü")
    assert (server.host, server.port, server.tls) == ("xn--mnchen-3ya.example", 443, True)
    assert server.path == "/a%20b?c=%C3%BC"
    server = parse_webhook("http://[::1]:8080")
    assert (server.host, server.port, server.path) == ("::1", 8080, "/")
    assert server.shown == "http://[::1]:8080"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls_checks_the_certificate(tmp_path, make_item, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key),
         "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web = Web(context=context)
    monkeypatch.setattr(webhook, "_FAREWELL_S", 0.5)
    with WebhookSink(f"https://localhost:{web.port}/") as sink:
        sink.write(make_item(0))
        wait_for(lambda: sink._failure)
    assert web.bodies == []
    lost, reason = sink.losses()
    assert lost == 1
    assert "has a certificate that is not trusted" in reason
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with WebhookSink(f"https://localhost:{web.port}/", patient=True) as sink:
        sink.write(make_item(1))
    web.stop()
    assert web.frames == [1]


def test_a_run_posts_what_the_file_holds(runtime, tiny_model, photo, tmp_path, web):
    for name in "abc":
        photo(f"{name}.png")
    lines = tmp_path / "lines.jsonl"
    done = runtime(
        "run", tiny_model, "--file", tmp_path / "photos", "--jsonl", lines,
        "--webhook", f"http://127.0.0.1:{web.port}/hook/s3cret",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = [json.loads(line) for line in lines.read_text().splitlines()]
    posted = [json.loads(body) for body in web.bodies]
    for document in wanted + posted:
        del document["age_ms"], document["time"]  # by the moment of writing
    assert posted == wanted
    assert f"wrote http://127.0.0.1:{web.port}/***" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_run_whose_webhook_took_nothing_fails(runtime, tiny_model, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("foldcam.runtime.sinks.webhook._PATIENCE_S", 0.2)
    monkeypatch.setattr("foldcam.runtime.sinks.webhook._FAREWELL_S", 0.2)
    for name in "abc":
        photo(f"{name}.png")
    done = runtime(
        "run", tiny_model, "--file", tmp_path / "photos", "--jsonl", tmp_path / "x.jsonl", "--json",
        "--webhook", f"http://me:s3cret@127.0.0.1:{free_port()}/hook",
    )  # fmt: skip
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["sinks"][-1]["drops"] == {"sink failed": 3}
    assert document["outputs"] == [str(tmp_path / "x.jsonl")]
    assert "webhook lost 3 of 3 results: http://127.0.0.1" in document["failures"][0]
    assert "cannot be reached: Connection refused" in document["failures"][0]
    assert "s3cret" not in done.stdout + done.stderr
