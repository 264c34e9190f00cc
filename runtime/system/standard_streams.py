"""Standard input, output and error as a program finds them: closed, full, or shared."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import sys
import time
from typing import Any, TextIO

from foldcam.runtime.system.text import shorten

_claimed: list[TextIO] = []
_ours: list[bool] = []


def repair_streams() -> None:
    """Give a program the three streams that it was started without.

    A closed one would be the number of the first file that is opened, and what a library
    prints would end up in there. What is written to a closed standard output is an error, as
    on a full disk; what is said on standard error is not worth one.
    """
    # Opened the wrong way round, standard output refuses what is written to it.
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    _ours.append(True)
    sys.stderr = io.TextIOWrapper(
        _Unheard(), encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )


def claim_output() -> None:
    """Keep standard output for results: whatever else prints there is heard on standard error.

    A library or a user's function that prints would otherwise break the one JSON document, or
    the lines, that somebody reads. Does nothing where the process is not a program of ours.
    """
    if _claimed or not _ours:
        return
    sys.stdout.flush()
    results = os.dup(1)
    os.dup2(2, 1)
    _claimed.append(open(results, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    sys.stdout = sys.stderr


def output() -> TextIO:
    """Where results go: standard output, however it is called now."""
    return _claimed[0] if _claimed else sys.stdout


def flush_open_files() -> None:
    """Write what waits in files that nobody closed, as the interpreter's own end would."""
    # By their types: to ask an object itself may run code of its own.
    files = [each for each in gc.get_objects() if issubclass(type(each), io.IOBase)]
    # Texts first: what they hold goes through a buffer of bytes.
    files.sort(key=lambda file: not isinstance(file, io.TextIOBase))
    for file in files:
        with contextlib.suppress(Exception):
            if not file.closed and file.writable():
                file.flush()


class _Unheard(io.RawIOBase):
    """Standard error, on which nobody may be listening: a terminal that was closed, a full disk."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        rest = view
        try:
            while rest:
                rest = rest[os.write(2, rest) :]
        except OSError:
            pass
        return len(view)


class RewrittenLine:
    """One line on standard error, rewritten on a terminal; elsewhere a line now and then."""

    def __init__(self, stream: TextIO | None = None, terminal_s: float = 0.0, log_s: float = 0.0):
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = terminal_s if self._terminal else log_s
        self._begin = time.monotonic()
        # The first line of a log comes after one period, so that short runs stay silent.
        self._last = float("-inf") if self._terminal else self._begin
        self._shown = False

    def is_due(self) -> bool:
        """Whether the last time is long enough ago; if so, this is the last time."""
        now = time.monotonic()
        due = now - self._last >= self._every
        self._last = now if due else self._last
        return due

    def show(self, text: str) -> None:
        """Rewrite the line; in a log, add one."""
        if self._terminal:
            text = shorten(text, shutil.get_terminal_size().columns - 1)
        self._write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._shown = self._terminal

    def clear(self) -> None:
        """Leave an empty line for what is printed next."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class ProgressLine(RewrittenLine):
    """Shows `stage done/total` on a terminal, and nothing elsewhere. Use as a context manager."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream, terminal_s=0.1)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` of a stage are finished."""
        if self._terminal and (done == total or self.is_due()):
            self.show(f"{stage} {done}/{total}")
