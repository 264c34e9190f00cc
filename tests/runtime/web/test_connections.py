"""Who opens connections and asks for nothing keeps nobody else out."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.web import descriptors


def opened(served, count, sent=b""):
    found = []
    for _ in range(count):
        connection = socket.create_connection((served.host, served.port), timeout=5)
        if sent:
            with contextlib.suppress(OSError):  # it may have given way already
                connection.sendall(sent)
        found.append(connection)
    return found


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: 127"])
def test_connections_that_ask_for_nothing_give_way(serve, make_item, sent):
    served = serve(clients=4)
    served.feed(make_item())
    # Three times as many as there may be.
    idle = opened(served, 120, sent)
    try:
        for path in ("/healthz", "/", "/metrics", "/healthz"):
            begun = time.monotonic()
            assert served.get(path).status == 200
            # Far less than what a half request is waited for.
            assert time.monotonic() - begun < 5
            idle += opened(served, 40, sent)
    finally:
        for connection in idle:
            connection.close()


def test_a_viewer_that_is_watching_does_not_give_way(serve, make_item):
    served = serve(clients=2)
    with served.watch() as viewer:
        viewer.recv(timeout=10)
        viewer.send('{"watch": 0}')
        idle = opened(served, 120)
        try:
            served.feed(make_item(1))
            assert served.get("/healthz").status == 200
            deadline = time.monotonic() + 20
            while not isinstance(viewer.recv(timeout=10), bytes):
                assert time.monotonic() < deadline
        finally:
            for connection in idle:
                connection.close()


def test_there_is_room_for_as_many_as_the_process_may_have_open(monkeypatch):
    monkeypatch.setattr(descriptors, "_open_files", lambda: 20)
    limits = [(64, 64)]
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[0])
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: asked.append(limit))
    assert descriptors.budget(64) == descriptors.Budget(14, 28)
    assert descriptors.budget(3) == descriptors.Budget(3, 28)
    assert asked == []
    # What the system allows is asked for.
    limits[0] = (64, 4096)
    assert descriptors.budget(64) == descriptors.Budget(64, 160)
    assert asked == [(196, 4096)]
    limits[0] = (36, 36)
    with pytest.raises(FoldcamError, match=r"may have 36 open files and needs more"):
        descriptors.budget(64)


@pytest.mark.parametrize("limit", [16, 64])
def test_a_small_limit_of_open_files_is_one_sentence_or_a_smaller_page(
    tiny_model, child_environment, tmp_path, limit
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--source",
        "test://?size=64x48&rate=20", "--quiet", "--serve", str(port),
    ]  # fmt: skip
    child = subprocess.Popen(
        ["bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash", *command],
        env=child_environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if limit == 16:
        _, stderr = child.communicate(timeout=60)
        assert child.returncode == 1
        assert stderr.startswith("error: The live page cannot be served: this process may have 16")
        assert stderr.count("\n") == 1
        return
    page = f"http://127.0.0.1:{port}/healthz"
    assert _status(page, child) == 200
    idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(100)]
    try:
        assert _status(page, child) == 200
    finally:
        child.terminate()
        for connection in idle:
            connection.close()
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "Traceback" not in stderr
    assert "this process may have 64 open files only" in stderr


def _status(page, child):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with urllib.request.urlopen(page, timeout=10) as answer:
                return answer.status
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("the page did not answer")
