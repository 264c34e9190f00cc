"""The gate before every route."""

from __future__ import annotations

import logging
import socket
import time

import pytest
from starlette.routing import Route, WebSocketRoute


def paths(served) -> list[str]:
    found = [route.path for route in served.page.routes() if isinstance(route, Route)]
    assert {"/", "/metrics", "/healthz", "/api/latest", "/api/snapshot.jpg", "/main.js"} <= set(
        found
    )
    return [*found, "/nothing", "/login", "/logout", "/api/", "//", "/../etc/passwd", "/%2e%2e/"]


def exchange(served, request: bytes) -> bytes:
    """Everything that the server answers to raw bytes."""
    with socket.create_connection((served.host, served.port), timeout=10) as client:
        client.sendall(request)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_without_the_token_every_route_answers_401(serve, make_item, token):
    served = serve(host="0.0.0.0", token=token)
    served.feed(make_item())
    for path in paths(served):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            answer = served.get(path, method)
            assert answer.status == 401, (method, path)
            assert answer.getheader("www-authenticate").startswith("Bearer")
    for path in (*paths(served), "/stream"):
        handshake = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert status(exchange(served, handshake.encode())) == 401, path
    assert any(isinstance(route, WebSocketRoute) for route in served.page.routes())


def test_with_the_token_every_route_answers(serve, make_item, token):
    served = serve(host="0.0.0.0", token=token)
    served.feed(make_item())
    bearer = {"Authorization": f"Bearer {token}"}
    for route in served.page.routes():
        if isinstance(route, Route):
            expected = 404 if "match" in route.path else 200
            assert served.get(route.path, **bearer).status == expected, route.path
    with served.watch(additional_headers=bearer) as client:
        assert "hello" in client.recv(5)


def test_a_token_given_on_loopback_is_needed_there_too(serve, token):
    served = serve(token=token)
    assert served.get("/").status == 401


def test_a_browser_without_the_token_gets_a_form_and_nothing_of_the_run(serve, token):
    served = serve(token=token)
    answer = served.get("/api/latest", Accept="text/html,*/*")
    assert answer.status == 401
    text = answer.content.decode()
    assert 'action="../login"' in text
    assert 'type="password"' in text
    assert "camera-0" not in text
    policy = answer.getheader("content-security-policy")
    assert "unsafe-inline" not in policy
    assert "default-src 'none'" in policy


def test_a_login_sets_a_cookie_and_leaves_no_token_in_the_address(serve, token):
    served = serve(token=token)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = served.get("/login", "POST", f"token={token}", **form)
    assert answer.status == 303
    assert answer.getheader("location") == "./"
    cookie = answer.getheader("set-cookie").partition(";")[0]
    assert token not in str(answer.getheaders())
    assert served.get("/api/status", Cookie=cookie).status == 200
    with served.watch(additional_headers={"Cookie": cookie}) as client:
        assert "hello" in client.recv(5)
    ended = served.get("/logout", "POST", Cookie=cookie).getheader("set-cookie")
    assert ended.startswith(cookie.partition("=")[0] + "=; ")
    assert "Max-Age=0" in ended
    secure = served.get(
        "/login", "POST", f"token={token}", Host="localhost", Origin="https://localhost"
    )
    assert secure.getheader("set-cookie").endswith("; Secure")


@pytest.mark.parametrize(
    "body", ["", "token=", "token=wrong", "token=%ff", "x" * 5000, "tokn=x", "&" * 100]
)
def test_a_wrong_login_sets_nothing(serve, body, token):
    served = serve(token=token)
    answer = served.get("/login", "POST", body, Accept="text/html")
    assert answer.status == 401
    assert answer.getheader("set-cookie") is None
    assert b"not the token" in answer.content


def test_another_site_cannot_log_in_or_open_a_stream(serve, token):
    served = serve(token=token)
    evil = {"Origin": "http://evil.example"}
    assert served.get("/login", "POST", f"token={token}", **evil).status == 401
    bearer = {"Authorization": f"Bearer {token}"}
    refused = exchange(
        served,
        f"GET /stream HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
        f"Authorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode(),
    )
    assert status(refused) == 403
    with served.watch(
        origin=f"http://127.0.0.1:{served.port}", additional_headers=bearer
    ) as client:
        assert "hello" in client.recv(5)


def test_a_foreign_host_name_is_not_served(serve):
    served = serve(names=("cam.example.org",))
    assert served.get("/", Host="cam.example.org").status == 200
    assert served.get("/", Host="rebound.example").status == 421
    assert status(exchange(served, b"GET / HTTP/1.0\r\n\r\n")) == 421
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert status(exchange(served, two)) in (400, 421)


def test_every_answer_has_the_strict_headers_and_none_allows_other_origins(serve, token):
    served = serve(token=token)
    bearer = {"Authorization": f"Bearer {token}", "Origin": "http://evil.example"}
    for path in paths(served):
        for sent in ({}, bearer):
            answer = served.get(path, **sent)
            assert "frame-ancestors 'none'" in answer.getheader("content-security-policy")
            assert "unsafe" not in answer.getheader("content-security-policy")
            assert answer.getheader("x-content-type-options") == "nosniff"
            assert answer.getheader("referrer-policy") == "same-origin"
            assert answer.getheader("cross-origin-resource-policy") == "same-origin"
            assert not [
                name for name, _ in answer.getheaders() if name.startswith("access-control")
            ]
            assert answer.getheader("server") is None
    assert served.get("/api/latest", **bearer).getheader("cache-control") == "no-store"


def test_what_is_too_large_is_refused(serve):
    served = serve()
    assert served.get("/", body="x").status == 413
    assert served.get("/", Transfer_Encoding="chunked", body="0\r\n\r\n").status == 413
    assert served.get("/?" + "x" * 3000).status == 414
    assert served.get("/", X_Long="x" * 20000).status == 431
    endless = [b"GET / HTTP/1.1\r\nX: ", *[b"x" * 5000] * 4]
    with socket.create_connection((served.host, served.port), timeout=10) as client:
        for part in endless:
            client.sendall(part)
            time.sleep(0.05)  # so that the server sees it begun and not ended
        assert status(client.recv(1000)) == 400
    assert served.get("/").status == 200


def test_only_reading_is_served(serve):
    served = serve()
    assert served.get("/api/status", "POST", Content_Length="0").status == 405
    assert served.get("/login").status == 303
    assert served.get("/login", "POST", "token=x").status == 413


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/static/../server.py", "/%2e%2e/%2e%2e/etc/passwd", "/..%2fserver.py",
     "/main.js/../../server.py", "/main.js%00", "//etc/passwd", "/\\..\\x", "/live.css/"],
)  # fmt: skip
def test_no_request_becomes_a_path(serve, path):
    assert serve().get(path).status in (307, 404)


def test_the_token_is_in_no_log(serve, caplog, token):
    caplog.set_level(logging.DEBUG)
    served = serve(token=token)
    served.get("/", Authorization=f"Bearer {token}")
    served.get("/login", "POST", f"token={token}")
    served.get(f"/?token={token}")
    with served.watch(additional_headers={"Authorization": f"Bearer {token}"}) as client:
        client.recv(5)
    served.page.__exit__(None, None, None)
    ours = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert token not in "".join(record.getMessage() for record in ours)


def test_a_fault_of_ours_is_one_line_in_the_log_and_a_plain_500(serve, caplog, monkeypatch):
    served = serve()

    def broken(snapshot=None):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(served.page._shown.health, "trouble", broken)
    assert served.get("/healthz").status == 500
    lines = [record for record in caplog.records if record.name == "foldcam.runtime.web.guard"]
    assert [record.getMessage() for record in lines[:1]] == [
        "a request failed: ZeroDivisionError: by nothing"
    ]
    assert lines[0].exc_info is None
