"""A file of JSON lines that only grows: by whole lines, over any number of runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for, write_failure
from foldcam.runtime.system.logs import log

_BLOCK = 1 << 16


class GrowingLines:
    """Adds lines to a file, which may be read at any time and is never begun again.

    What is there stays. A last line that was cut, by a full disk or a power failure, would swallow
    the next one: before something is added it is moved to `FILE.cut`, or ended if only the end of
    the line is missing, and the log says so.

    Args:
        key: the first key of every line, by which a file of this kind is known.
        follow: whether `path` may be a symbolic link: where a user named the file itself.
    """

    def __init__(self, path: Path, key: str, *, alone: bool = False, follow: bool = True) -> None:
        self._path, self._alone = path, alone
        self._start = f'{{"{key}"'.encode()
        self._flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._flags |= 0 if follow else os.O_NOFOLLOW
        self._file = -1
        self._made = not os.path.lexists(path)
        if alone or os.path.lexists(path):
            self._open()

    def append(self, data: bytes) -> None:
        """Add whole lines: all of them, or none if the disk is full."""
        if self._file < 0 or not self._has_its_name():
            self.close()
            self._open()
        with user_errors_for(self._path):
            if not self._alone:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                # Another process may have been killed in the middle of a line.
                before = self._whole()
                self._write(data, before)
            finally:
                if not self._alone:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let others write; a file that was made for lines that did not come is removed."""
        if self._file >= 0:
            with suppress(OSError):
                if self._made and os.fstat(self._file).st_size == 0 and self._has_its_name():
                    self._path.unlink()
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def _open(self) -> None:
        path = self._path
        with user_errors_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._file = os.open(path, self._flags, 0o666)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise FoldcamError(
                        f"{path} is a symbolic link, through which nothing is written: remove it, "
                        "or choose another folder."
                    ) from None
                if error.errno == errno.EISDIR:
                    raise FoldcamError(f"{path} is a folder: give the name of a file.") from None
                raise
        try:
            self._check()
            if self._alone:
                self._lock()
            with user_errors_for(path):
                self._whole()
        except BaseException:
            self.close()
            raise

    def _has_its_name(self) -> bool:
        """Whether the file is still at its place: a program that rotates logs renames it."""
        try:
            now = self._path.stat()
        except OSError:
            return False
        own = os.fstat(self._file)
        return (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino)

    def _check(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise FoldcamError(f"{self._path} is a device or a pipe: give the name of a file.")
        if not is_of_lines(self._file, self._start):
            raise FoldcamError(
                f"{self._path} exists and holds no such lines: nothing is added to it; choose "
                "another name."
            )

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FoldcamError(
                f"Another run is writing {self._path}: wait for its end, or choose another output."
            ) from None
        except OSError:
            pass  # some network file systems have no locks

    def _write(self, data: bytes, before: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise FoldcamError(write_failure(self._path, error)) from error

    def _whole(self) -> int:
        """See that the last line has its end; returns the file's size in bytes."""
        size = os.fstat(self._file).st_size
        if size == 0 or os.pread(self._file, 1, size - 1) == b"\n":
            return size
        start = self._start_of_last_line(size)
        line = os.pread(self._file, size - start, start)
        if _is_json(line):
            self._write(b"\n", size)
            log.warning("%s: the end of its last line was missing, and is there now", self._path)
            return size + 1
        aside = self._path.with_name(f"{self._path.name}.cut")
        handle = os.open(
            aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        try:
            if os.write(handle, line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
        os.ftruncate(self._file, start)
        log.warning(
            "%s: its last line was cut after %d bytes; they are in %s now", self._path, len(line),
            aside,
        )  # fmt: skip
        return start

    def _start_of_last_line(self, end: int) -> int:
        while end > 0:
            start = max(0, end - _BLOCK)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0


def is_of_lines(file: int, start: bytes) -> bool:
    """Whether an open file is empty, or begins as each of its lines does."""
    found = os.pread(file, len(start), 0)
    return start.startswith(found)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
