"""How `runtime` and `foldcam` begin and end: streams, signals, threads, exit status.

This module is loaded first and imports little, so that a signal during start-up, too, ends the
program with one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from foldcam.runtime.system import stopping
from foldcam.runtime.system.standard_streams import claim_output, flush_open_files, repair_streams

DEAF_SECONDS = 10.0
"""A program that is in a library for so long after a signal is ended there."""
_NUDGE_SECONDS = 0.2

_FLUSH_SECONDS = 2.0


def run_program(name: str, load: Callable[[], Callable[..., Any]]) -> NoReturn:
    """Load a program and run it with the arguments of this process; never returns."""
    stopping.install(_leave_at_once)
    repair_streams()
    _watch_signals()
    if "--json" in sys.argv[1:]:
        claim_output()
    status = 1
    try:
        from foldcam.runtime.system.command import status_of

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
        import traceback

        # A bug. Not left to the interpreter, which would end under the threads that run.
        traceback.print_exc()
    leave(status)


def leave(status: int) -> NoReturn:
    """End the process, whatever its threads do.

    The interpreter's own end takes a daemon thread down that comes back from a library: that
    unwinds C++ which forbids it, and the process aborts. A signal that arrives meanwhile ends it
    without a word. So there is no such end: what it would do for threads and files is done
    here, and the rest is the kernel's.

    Args:
        status: to exit with, unless standard output cannot be flushed.
    """
    import atexit

    from foldcam.runtime.system.command import flushed

    stopping.install(_leave_at_once)
    status = flushed(status)
    # As the interpreter does: first the threads that it waits for, then what was registered.
    with contextlib.suppress(Exception):
        getattr(threading, "_shutdown", lambda: None)()
        atexit._run_exitfuncs()
    # The work is done: nothing can ask for its end any more.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)
    # In a thread, because one that is stuck in writing a file holds that file's lock.
    flushing = threading.Thread(target=flush_open_files, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_SECONDS)
    leave_now(flushed(status))


def abandon() -> NoReturn:
    """End the process because the user would not wait for a thread that still runs."""
    from foldcam.runtime.system.command import say

    say(stopping.stop_sentence())
    leave_now(stopping.stop_status())


def leave_now(status: int) -> NoReturn:
    """End the process without anything but what was written already."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _watch_signals() -> None:
    """Let the main thread notice a signal, and end the process if it is in a library for too long.

    Python calls handlers in its main thread, between two of its own steps. A signal that comes to
    another thread, or just before the main thread begins to wait for a lock, does not end that
    wait: so another signal, which does nothing, is sent to the main thread. One that waits in a
    library for a file system that is gone, or computes there for minutes, never comes back.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    main = threading.get_ident()
    signal.signal(signal.SIGURG, lambda *_: None)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            for number in os.read(reading, 16):
                before = time.monotonic()
                if not stopping.is_ours(number):
                    continue
                while not stopping.heard_since(before - DEAF_SECONDS):
                    if time.monotonic() - before > DEAF_SECONDS:
                        _leave_at_once(number, None)
                    time.sleep(_NUDGE_SECONDS)
                    signal.pthread_kill(main, signal.SIGURG)

    threading.Thread(target=watch, name="foldcam signals", daemon=True).start()


def _leave_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """The handler while nothing is begun: an exception would be swallowed by half an import."""
    stopping.note(number)
    with contextlib.suppress(OSError):
        os.write(2, f"{stopping.stop_sentence()}\n".encode())
    os._exit(stopping.stop_status())
