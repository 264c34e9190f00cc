"""The base class of all sinks, and a file that appears only when it is complete."""

from __future__ import annotations

import fcntl
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar, runtime_checkable

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, lock_before, open_own_file, user_errors_for

_LONGEST_LOOK_S = 5.0


class StopRequested(Exception):  # noqa: N818  (a request, not an error)
    """Raised by a sink when the user asked it to stop the run, such as by closing a window."""


class NotWritten(Exception):  # noqa: N818  (a loss to be counted, not the end of a sink)
    """Raised by a sink that did not take this frame and goes on; the text is why, as a clause."""


class Sink(ABC):
    """Takes every frame's result, in order. A subclass needs one method: `write`.

    A sink is a context manager: it is entered before the first frame and left after the last one.
    One thread calls it, which is its own unless `main_thread` is true. A sink that can go on after
    it has failed has a method `reopen` as well (see `Reopens`).

    Attributes:
        name: a word for status lines and messages, such as `video`.
        may_skip: whether it may miss results while it is busy, also those of recorded sources (a
            window may).
        main_thread: whether the main thread must call it, as toolkits of windows demand.
        output: what it writes, in words for the summary; None if nothing stays.
        passive: whether it only remembers, so that a run whose other sinks have all failed ends.
    """

    name: str = "sink"
    may_skip: bool = False
    main_thread: bool = False
    output: str | None = None
    passive: bool = False

    @abstractmethod
    def write(self, item: FrameResults) -> None:
        """Take one frame and its results.

        Raises:
            FoldcamError: the sink cannot go on: the disk is full, the folder cannot be written.
            NotWritten: this frame is lost, and the next one is welcome.
            StopRequested: the user asked to stop.
        """

    def close(self, failed: bool) -> None:  # noqa: B027  (most sinks have nothing to end)
        """End; called once, after the last frame or after a failure.

        Args:
            failed: False when the run ended or was stopped by its user: then files get their final
                names. True when the run or this sink failed: then what was begun is removed.

        Raises:
            FoldcamError: the output cannot be finished.
        """

    def losses(self) -> tuple[int, str]:
        """How many frames `write` took that did not arrive all the same, and why the latest.

        It is asked for again after `close`. The reason is a clause without a full stop.
        """
        return 0, ""

    def __enter__(self: _SinkType) -> _SinkType:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=kind is not None)


_SinkType = TypeVar("_SinkType", bound=Sink)


@runtime_checkable
class Reopens(Protocol):
    """A sink that can go on after it has failed, in a run that does not end for it."""

    def reopen(self) -> None:
        """Begin again after `close`; what was finished before stays.

        Raises:
            FoldcamError: it is not possible yet.
        """


@runtime_checkable
class Loses(Protocol):
    """What has `losses`, as every `Sink` does; a user's sink that inherits nothing may not."""

    def losses(self) -> tuple[int, str]:
        """See `Sink.losses`."""


class Part(Sink):
    """A sink of one file, which a `Recording` begins and finishes."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the file so far."""

    @abstractmethod
    def rescue(self) -> None:
        """Finish the file with what is sound of it, or remove it; never raises."""


class _Abandoned(Exception):  # noqa: N818
    pass


class PendingFile:
    """A file under a temporary name that is either finished or abandoned.

    It is locked until it has its name or this process is gone, however that ends: so another run
    sees that somebody writes it, and what a killed run left can be told from what is being
    written (see `runtime.sinks.recording`).

    Args:
        another: gives another name if the name is taken at the end. None replaces what has the
            name; then nobody else may be writing the same file.
    """

    def __init__(self, path: Path, another: Callable[[], Path] | None = None) -> None:
        self.path = path
        self._another = another
        self._lock = -1
        self._stack = ExitStack()
        if another is not None:
            self._begin()
            return
        with user_errors_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            if _is_being_written(path):
                raise FoldcamError(
                    f"Another run is writing {path}: wait for its end, or choose another output."
                )
            self._begin()

    @property
    def size(self) -> int:
        """Bytes so far; 0 once it is finished or abandoned."""
        try:
            return self.temporary.stat().st_size
        except OSError:
            return 0

    @property
    def lock(self) -> int | None:
        """The descriptor that locks the file, for a program that goes on writing it."""
        return self._lock if self._lock >= 0 else None

    def finish(self) -> None:
        """Give the file its final name, which is `path` from then on."""
        try:
            self._stack.close()
        finally:
            self._release()

    def abandon(self) -> None:
        """Remove the file. Does nothing after `finish`."""
        # Not the exception that ended the run: atomic_path would translate it as if
        # writing this file had caused it.
        abandoned = _Abandoned()
        self._stack.__exit__(_Abandoned, abandoned, None)
        self._release()

    def __del__(self) -> None:
        self._release()

    def _begin(self) -> None:
        another = None if self._another is None else self._next
        self.temporary = self._stack.enter_context(atomic_path(self.path, another))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock = os.open(self.temporary, flags)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _next(self) -> Path:
        assert self._another is not None
        self.path = self._another()
        return self.path

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_writable(folder: Path) -> None:
    """Make a folder, and find out whether files can be made in it, before any work is done."""
    inside = folder / "foldcam-probe"
    with user_errors_for(inside):
        folder.mkdir(parents=True, exist_ok=True)
    with suppress(_Abandoned), atomic_path(inside, lambda: inside):
        raise _Abandoned


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Between looking whether a file is being written and beginning it nobody else does so."""
    handle = -1
    with suppress(OSError):  # no locks there, or the folder cannot be read: atomic_path says so
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        lock_before(handle, time.monotonic() + _LONGEST_LOOK_S)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _is_being_written(path: Path) -> bool:
    """Whether an unfinished file of this name is locked by somebody."""
    ours = re.compile(rf"\.{re.escape(path.stem)}\.[^.]+\.partial{re.escape(path.suffix)}")
    try:
        found = [item for item in path.parent.iterdir() if ours.fullmatch(item.name)]
    except OSError:
        return False
    return any(map(_is_locked, found))


def _is_locked(path: Path) -> bool:
    try:
        file = open_own_file(path)
    except OSError:
        return False
    if file is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def refuse_input(target: Path, source: str) -> None:
    """Raise rather than write over the file that is being read."""
    try:
        same = target.exists() and target.samefile(source)
    except OSError:
        same = False
    if same:
        raise FoldcamError(f"{target} is the input itself: choose another output path.")
