"""How `runtime` and `foldcam` begin and end: streams, signals, threads, exit status.

This module is loaded first and imports little, so that a signal during start-up, too, ends the
program with one sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from runtime import stopping
from runtime.standard_streams import claim_output, repair_streams

DEAF_SECONDS = 10.0
"""A program that is in a library for so long after a signal is ended there."""
_WATCH = "foldcam signals"


def runtime() -> NoReturn:
    """The console script `runtime`."""

    def load() -> Callable[..., Any]:
        from runtime.cli import app

        return app

    run_program("runtime", load)


def foldcam() -> NoReturn:
    """The console script `foldcam`."""

    def load() -> Callable[..., Any]:
        from runtime.foldcam_cli import installed

        return installed()

    run_program("foldcam", load)


def run_program(name: str, load: Callable[[], Callable[..., Any]]) -> NoReturn:
    """Load a program and run it with the arguments of this process; never returns.

    Args:
        name: as it is called, for the usage text.
        load: imports it.
    """
    stopping.install(_leave_at_once)
    repair_streams()
    _watch_signals()
    if "--json" in sys.argv[1:]:
        claim_output()
    status = 1
    try:
        from runtime.cli_support import status_of

        def call() -> None:
            app = load()
            stopping.install(stopping.raise_stopped)
            app(prog_name=name)

        status = status_of(call)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            # Not even our own modules could be read.
            os.write(2, f"error: {error.strerror}: raise the limit (ulimit -n 1024).\n".encode())
            os._exit(status)
        # A bug. Not left to the interpreter, which would end under the threads that run.
        traceback.print_exc()
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process, whatever its threads do.

    The interpreter's own end takes a daemon thread down that comes back from a library: that
    unwinds C++ which forbids it, and the process aborts. So with such a thread there is no
    such end: what it would do for files is done here, and the rest is the kernel's.

    Args:
        status: to exit with, unless standard output cannot be flushed.
    """
    stopping.install(_leave_at_once)
    from runtime.cli_support import flushed

    status = flushed(status)
    if not _left_behind():
        sys.exit(status)
    # As the interpreter does: first the threads that it waits for, then what was registered.
    with contextlib.suppress(Exception):
        getattr(threading, "_shutdown", lambda: None)()
        atexit._run_exitfuncs()
    leave_now(flushed(status))


def abandon() -> NoReturn:
    """End the process because the user would not wait for a thread that still runs."""
    from runtime.cli_support import say

    say(stopping.stop_sentence())
    leave_now(stopping.stop_status())


def leave_now(status: int) -> NoReturn:
    """End the process without anything but what was written already."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _left_behind() -> bool:
    here = (threading.current_thread().name, _WATCH)
    return any(thread.daemon and thread.name not in here for thread in threading.enumerate())


def _watch_signals() -> None:
    """End the process if the main thread does not come back from a library after a signal.

    Python calls handlers in its main thread, between two of its own steps: one that waits in a
    library for a file system that is gone, or computes there for minutes, never hears of it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    hear, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            # `tell` is named so that it is not closed while this waits.
            for number in hear.recv(16) if tell.fileno() >= 0 else b"":
                before = time.monotonic()
                if not stopping.is_ours(number):
                    continue
                time.sleep(DEAF_SECONDS)
                if not stopping.heard_since(before - DEAF_SECONDS):
                    _leave_at_once(number, None)

    threading.Thread(target=watch, name=_WATCH, daemon=True).start()


def _leave_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """The handler while nothing is begun: an exception would be swallowed by half an import."""
    stopping.note(number)
    with contextlib.suppress(OSError):
        os.write(2, f"{stopping.stop_sentence()}\n".encode())
    os._exit(stopping.stop_status())
