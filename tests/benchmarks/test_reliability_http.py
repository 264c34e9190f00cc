"""The fuzz of the live page, and the check that nothing is answered without a token."""

from __future__ import annotations

import socket
import threading
from itertools import islice

import pytest

from foldcam.benchmarks.studies.reliability import clients
from foldcam.benchmarks.studies.reliability.http_cases import fuzz, http_cases, run_http_cases
from foldcam.runtime.web.access import Access


def test_a_seed_yields_the_same_requests_and_another_one_others():
    first, again, other = (list(islice(http_cases(seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len(set(first)) > 45


def test_wild_requests_neither_stop_the_server_nor_show_a_fault_of_it():
    outcome = fuzz(seed=5, count=300)
    assert outcome["passed"], outcome
    assert outcome["sent"] == 300
    assert outcome["logged"] == []
    # The mutations reach the routes and the WebSocket, not only the parser.
    assert {"200", "101", "400", "404", "405"} <= set(outcome["by_status"])


@pytest.fixture
def broken_server():
    """Answers every request with status 500."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(100)
                    client.sendall(b"HTTP/1.1 500 Oh\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_fails_is_found_out(broken_server):
    cases = [b"GET / HTTP/1.1\r\n\r\n"] * 60
    outcome = run_http_cases("127.0.0.1", broken_server, cases, 20.0)
    assert not outcome.passed
    assert outcome.faults
    assert outcome.unanswered_probes == 1


def test_without_a_token_nothing_is_answered():
    refused = clients.unauthenticated()
    assert refused["answered"] == []
    assert refused["routes"] > 15


def test_a_gate_that_lets_through_would_be_noticed(monkeypatch):
    monkeypatch.setattr(Access, "allows", lambda self, headers: True)
    answered = clients.unauthenticated()["answered"]
    assert any(line.startswith("GET /metrics: ") for line in answered)
    assert any(line.startswith("WebSocket /stream: 101") for line in answered)
