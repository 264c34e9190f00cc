"""Signals that ask for the end: Ctrl-C, SIGTERM, and SIGHUP, which a closed terminal sends.

A program of ours installs handlers that raise `Stopped` (see `runtime.system.program`), so that
every `finally` between there and here removes what is unfinished. A run asks for more time: within
`StopSignal` the first signal is only remembered, and the current frame is finished.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPEAT_S = 5.0
_handlers: dict[int, Any] = {}
_caught: list[tuple[int, float]] = []


class Stopped(KeyboardInterrupt):
    """Raised where a signal arrived that ends the program; libraries take it for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_stopped(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """The handler of a program: unwind, removing what is unfinished."""
    if not _repeats(number):
        note(number)
        raise Stopped(number)


def note(number: int) -> None:
    """Remember that a signal came, and when."""
    _caught.append((number, time.monotonic()))


def _repeats(number: int) -> bool:
    """Whether a signal only says again what the last one said.

    `timeout` and systemd send SIGTERM and SIGHUP twice, or one after the other: the second
    must not break off the cleaning up that the first began. Ctrl-C is pressed again by
    somebody who means it.
    """
    return (
        bool(_caught) and number != signal.SIGINT and time.monotonic() - _caught[-1][1] < _REPEAT_S
    )


def caught() -> int | None:
    """The number of the signal that asked for the end; None if there was none."""
    return _caught[-1][0] if _caught else None


def is_ours(number: int) -> bool:
    """Whether a signal is handled here, and by nobody who came later."""
    return number in _handlers and signal.getsignal(number) == _handlers[number]


def heard_since(moment: float) -> bool:
    """Whether a handler has run since a moment of `time.monotonic`."""
    return bool(_caught) and _caught[-1][1] >= moment


def may_be_interrupted() -> bool:
    """Whether a plain `KeyboardInterrupt` here may come from Ctrl-C.

    Python raises it in the main thread alone, and not where a handler of ours raises `Stopped`.
    """
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def stop_status() -> int:
    """The exit status of a program that a signal ended, as shells have it: 128 and its number."""
    return 128 + int(caught() or signal.SIGINT)


def stop_sentence() -> str:
    """What such a program says."""
    number = signal.Signals(caught() or signal.SIGINT)
    known = {signal.SIGINT: " (Ctrl-C)", signal.SIGHUP: " (the terminal was closed)"}
    return f"stopped by {number.name}{known.get(number, '')}."


def install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set a handler for every signal that asks for the end.

    One that whoever started the program has it ignore stays ignored, as `nohup` wants it.

    Returns:
        The handlers before, for `restore`; empty outside of the main thread, where Python
        allows no handlers.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, handler)
            _handlers[number] = handler
    return before


def restore(before: dict[int, Any]) -> None:
    """Undo `install`."""
    for number, handler in before.items():
        # None: it was not set by Python, and Python cannot set it again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _handlers[number] = handler


class StopSignal:
    """While entered, the first signal sets `requested`; another one interrupts.

    Outside of the main thread, where Python allows no handlers, it only holds the flag.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._before = install(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        restore(self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested and _repeats(number):
            return
        note(number)
        if self.requested:
            raise Stopped(number)
        self.requested = True
