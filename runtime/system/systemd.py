"""What systemd wants to hear of a service: that it is ready, what it does, that it is alive.

The protocol is a datagram of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names; see
`man sd_notify`. Where that is not set, nothing happens.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping

from foldcam.runtime.system.monitor import Monitor, Snapshot, State
from foldcam.runtime.system.text import printable, shorten

_PINGS = 4
"""Looks per watchdog period."""
_STATUS_SECONDS = 5.0
_WAITING = (State.connecting.value, State.backoff.value)


class Notifier:
    """Reports the state of a run to systemd while the context is entered.

    The watchdog is fed as long as results come, the backend is being opened again, or no
    source has anything to give because it is connecting or waiting to try again: a
    camera that is away is no reason to be killed. A run that has frames and gets no
    results is.
    """

    def __init__(self, monitor: Monitor, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._monitor = monitor
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._period = _watchdog_seconds(environment)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Notifier:
        if self._address:
            self._send("READY=1")
            self._thread = threading.Thread(target=self._work, name="foldcam systemd", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._send("STOPPING=1")

    def _work(self) -> None:
        every = _STATUS_SECONDS
        if self._period is not None:
            every = min(every, self._period / _PINGS)
        before = self._monitor.snapshot()
        self._send("WATCHDOG=1")
        while not self._over.wait(every):
            now = self._monitor.snapshot()
            self._send(f"STATUS={status_of(now)}")
            if healthy(before, now):
                self._send("WATCHDOG=1")
            before = now

    def _send(self, text: str) -> None:
        # A leading @ stands for the null byte of an abstract socket.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that does not read must not hold up the run.
                sender.settimeout(1.0)
                sender.sendto(text.encode("utf-8", "replace"), address)
        except OSError:
            pass


def healthy(before: Snapshot, now: Snapshot) -> bool:
    """Whether a run did between two moments what it could."""
    if now.frames > before.frames or now.restarts > before.restarts:
        return True
    return all(stream.state in _WAITING for stream in now.streams)


def status_of(snapshot: Snapshot) -> str:
    """One line for `systemctl status`, without credentials."""
    parts = [f"{snapshot.frames} frames, {snapshot.fps:.1f} per second"]
    for stream in snapshot.streams:
        if stream.state != State.streaming.value:
            reason = f" ({stream.reason})" if stream.reason else ""
            parts.append(f"{stream.name} {stream.state}{reason}")
    return printable(shorten("; ".join(parts), 400))


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    text = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    # Meant for another process, which started this one.
    if pid and pid != str(os.getpid()):
        return None
    return int(text) / 1e6
