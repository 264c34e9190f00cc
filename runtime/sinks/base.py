"""The interface of a sink, and a file that appears only when it is complete."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, runtime_checkable

from runtime.errors import FoldcamError
from runtime.files import atomic_path
from runtime.seen import Seen


class StopRequested(Exception):  # noqa: N818  (a wish, not an error)
    """Raised by a sink when the user asked it to stop the run, such as by closing a window."""


class NotWritten(Exception):  # noqa: N818  (a loss to be counted, not the end of a sink)
    """Raised by a sink that did not take this frame and goes on; the text is why, as a clause."""


class Sink(Protocol):
    """A context manager that is given every frame's result, in order.

    Each has a thread of its own, except those with an attribute `main_thread` that is true,
    which are called by the main thread, as windows must be.

    It is left without an exception when the run ended or was stopped by the user: then
    its files get their final names. It is left with one when the run failed: then it
    removes what it has begun.
    """

    @property
    def name(self) -> str:
        """A word for status and messages, such as `video`."""
        ...

    @property
    def may_skip(self) -> bool:
        """Whether it may miss results while it is busy, of recorded sources, too (a window)."""
        ...

    @property
    def output(self) -> str | None:
        """What it writes, in words for the summary; None if nothing stays."""
        ...

    def __enter__(self) -> Sink: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, seen: Seen) -> None:
        """Take one frame and its results.

        Raises:
            FoldcamError: the disk is full or the folder cannot be written.
            NotWritten: this frame is lost, and the next one is welcome.
            StopRequested: the user asked to stop.
        """
        ...


@runtime_checkable
class Reopens(Protocol):
    """A sink that can go on after it has failed, in a run that does not end for it."""

    def reopen(self) -> None:
        """Begin anew after `__exit__`; what was finished before stays.

        Raises:
            FoldcamError: it is not possible yet.
        """
        ...


class Part(Sink, Protocol):
    """A sink of one file, which a `Recording` begins and finishes."""

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        ...

    def rescue(self) -> None:
        """Finish the file with what is sound of it, or remove it; never raises."""
        ...


class _Abandoned(Exception):  # noqa: N818
    pass


class PendingFile:
    """A file under a temporary name that is either finished or abandoned.

    Args:
        path: the final name.

    Raises:
        FoldcamError: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self.temporary = self._stack.enter_context(atomic_path(path))
        # Held until this process is gone, however it ends: see `runtime.sinks.orphans`.
        self._lock = os.open(self.temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def size(self) -> int:
        """Bytes so far; 0 once it is finished or abandoned."""
        try:
            return self.temporary.stat().st_size
        except OSError:
            return 0

    def finish(self) -> None:
        """Give the file its final name."""
        self._release()
        self._stack.close()

    def abandon(self) -> None:
        """Remove the file. Does nothing after `finish`."""
        # Not the exception that ended the run: atomic_path would translate it as if
        # writing this file had caused it.
        self._release()
        abandoned = _Abandoned()
        self._stack.__exit__(_Abandoned, abandoned, None)

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def refuse_input(target: Path, source: str) -> None:
    """Raise rather than write over the file that is being read.

    Raises:
        FoldcamError: both are the same file.
    """
    try:
        same = target.exists() and target.samefile(source)
    except OSError:
        same = False
    if same:
        raise FoldcamError(f"{target} is the input itself: choose another output path.")
