"""What systemd hears: over a real socket, of a real run, and what a watchdog is fed for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from foldcam.runtime.system.monitor import Monitor, Snapshot, State
from foldcam.runtime.system.systemd import Notifier, healthy, status_of


@pytest.fixture
def manager(tmp_path):
    """A socket as systemd's, and a function that gives what came there."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(0.05)

        def heard() -> list[str]:
            found = []
            try:
                while True:
                    found.append(listener.recv(4096).decode())
            except TimeoutError:
                return found

        yield path, heard


def snapshot(*states: State, frames: int = 0, restarts: int = 0) -> Snapshot:
    monitor = Monitor()
    for number, state in enumerate(states):
        monitor.state(monitor.add_stream(f"cam {number}", True), state, "is away")
    return replace(monitor.snapshot(), frames=frames, restarts=restarts)


@pytest.mark.parametrize(
    ("before", "now", "fed"),
    [
        (snapshot(State.streaming), snapshot(State.streaming, frames=1), True),
        (snapshot(State.streaming), snapshot(State.streaming), False),
        (snapshot(State.stalled), snapshot(State.stalled), False),
        (snapshot(State.backoff), snapshot(State.backoff), True),
        (snapshot(State.connecting), snapshot(State.connecting), True),
        (
            snapshot(State.backoff, State.streaming),
            snapshot(State.backoff, State.streaming),
            False,
        ),
        (
            snapshot(State.backoff, State.streaming),
            snapshot(State.backoff, State.streaming, frames=9),
            True,
        ),
        (snapshot(State.streaming), snapshot(State.streaming, restarts=1), True),
    ],
)
def test_the_watchdog_is_fed_while_all_goes_as_it_can(before, now, fed):
    assert healthy(before, now) is fed


def test_ready_status_watchdog_and_stopping(manager):
    path, heard = manager
    monitor = Monitor()
    stream = monitor.add_stream("cam", True)
    monitor.state(stream, State.streaming)
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
    with Notifier(monitor, environment):
        for _ in range(10):
            monitor.processed(stream, 1.0, {})
            time.sleep(0.05)
        flowing = heard()
        time.sleep(0.2)
        heard()
        time.sleep(0.3)
        stuck = heard()
    assert flowing[0] == "READY=1"
    assert flowing.count("WATCHDOG=1") >= 4
    assert any(text.startswith("STATUS=") and " frames, " in text for text in flowing)
    # It streams, and nothing comes out any more.
    assert "WATCHDOG=1" not in stuck
    assert stuck
    assert heard()[-1] == "STOPPING=1"


def test_an_abstract_socket():
    name = f"foldcam-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        with Notifier(Monitor(), {"NOTIFY_SOCKET": f"@{name}"}):
            assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"WATCHDOG_USEC": "soon"}]
)
def test_without_a_manager_nothing_happens(environment):
    with Notifier(Monitor(), environment):
        pass


def test_a_watchdog_that_is_meant_for_another_process(manager):
    path, heard = manager
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Notifier(Monitor(), environment):
        time.sleep(0.2)
    assert [text for text in heard() if text != "WATCHDOG=1"] == ["READY=1", "STOPPING=1"]


def test_the_status_names_who_is_away():
    text = status_of(snapshot(State.streaming, State.backoff, frames=7))
    assert text == "7 frames, 0.0 per second; cam 1 backoff (is away)"


def test_a_service_tells_when_it_is_ready_and_when_it_ends(
    manager, tiny_model, child_environment, tmp_path
):
    path, heard = manager
    child = subprocess.Popen(
        [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--quiet",
         "--source", "test://?size=64x48&rate=50"],
        env=child_environment(NOTIFY_SOCKET=path, WATCHDOG_USEC="400000"), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told: list[str] = []
    deadline = time.monotonic() + 30
    while told.count("WATCHDOG=1") < 3 and time.monotonic() < deadline:
        told += heard()
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=30)
    told += heard()
    assert child.returncode == 0, stderr
    assert told[0] == "READY=1"
    assert told.count("WATCHDOG=1") >= 3
    assert told[-1] == "STOPPING=1"
