"""One JSON line per frame, or per region of it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import Boxes, place_of
from foldcam.runtime.model.record import record as record
from foldcam.runtime.sinks.base import Part, PendingFile, refuse_input
from foldcam.runtime.sinks.growing import GrowingLines, is_of_lines
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import user_errors_for, write_failure
from foldcam.runtime.system.standard_streams import output

STDOUT = "-"
FIRST_KEY = "source"
"""Of every line: by it a file of results is known, which alone is added to or replaced."""
READER_SECONDS = 10.0
"""How long a named pipe's reader is waited for."""


class JsonlSink(Part):
    """Results as JSON lines, each written at once; the file has its name when it is complete.

    Args:
        target: a path, or `-` for standard output. A device or a named pipe is written
            directly.
        another: gives another name if the name is taken at the end; None replaces the file.
        boxes: of which each line says how much of the evidence lies in them, by name.
    """

    name = "jsonl"
    size = 0

    def __init__(
        self,
        target: str,
        embedding: bool = True,
        another: Callable[[], Path] | None = None,
        *,
        boxes: Boxes | None = None,
    ) -> None:
        self._embedding, self._boxes = embedding, boxes
        self._path = Path(target)
        self._file: PendingFile | None = None
        self._stream: IO[bytes] | None = None
        self.output = None if target == STDOUT else target
        if target == STDOUT:
            return
        with user_errors_for(self._path):
            # Without a buffer: a line that fails is not tried again when the file is closed.
            if is_direct(target):
                self._stream = open_direct(self._path)
            else:
                check_replaceable(self._path)
                self._file = PendingFile(self._path, another)
                self._stream = self._file.temporary.open("wb", buffering=0)

    def close(self, failed: bool) -> None:
        """Give the file its name, or remove it after a failure."""
        try:
            with suppress(OSError) if failed else user_errors_for(self._path):
                if self._stream is not None:
                    self._stream.close()
                if not failed and self._file is not None:
                    self._file.finish()
        finally:
            if self._file is not None:
                self._file.abandon()

    def rescue(self) -> None:
        """Finish the file with its whole lines."""
        with suppress(OSError, FoldcamError):
            if self._file is not None and self._stream is not None and self.size:
                self._stream.truncate(self.size)
                self._stream.close()
                self._file.finish()
        with suppress(OSError, FoldcamError):
            self.close(failed=True)

    def write(self, item: FrameResults) -> None:
        """Append one line per result; a frame without regions has a line, too."""
        if self._file is not None:
            refuse_input(self._path, item.frame.source)
        data = lines_of(item, self._embedding, self._boxes)
        try:
            if self._stream is None:
                output().write(data.decode())
                output().flush()
            else:
                _write_all(self._stream, data)
        except BrokenPipeError:
            raise  # whoever read our output has item enough
        except OSError as error:
            raise FoldcamError(write_failure(self._path, error)) from error
        self.size += len(data)


class GrowingJsonlSink(Part):
    """Results of a live source, added to a file that may be read while it grows.

    What is there stays, over any number of runs: frames that went by cannot be had again.
    """

    name = "jsonl"
    size = 0

    def __init__(self, path: Path, embedding: bool = True, boxes: Boxes | None = None) -> None:
        self._embedding, self._boxes = embedding, boxes
        self._lines = GrowingLines(path, FIRST_KEY, alone=True)
        self.output = str(path)

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Let others write; the lines stay whatever happened."""
        self._lines.close()

    def rescue(self) -> None:
        """Nothing to rescue: every line is there as a whole or not at all."""
        self._lines.close()

    def write(self, item: FrameResults) -> None:
        """Append one line per result; a frame without regions has a line, too."""
        data = lines_of(item, self._embedding, self._boxes)
        self._lines.append(data)
        self.size += len(data)


def lines_of(item: FrameResults, embedding: bool, boxes: Boxes | None = None) -> bytes:
    """One line per result; a frame without regions has a line, too."""
    lines = [
        json.dumps(record(item.frame, result, embedding, boxes), allow_nan=False)
        for result in item.results
    ] or [json.dumps({**place_of(item.frame), "regions": 0})]
    return "".join(f"{line}\n" for line in lines).encode()


def check_replaceable(path: Path) -> None:
    """Refuse to replace a file that holds no results."""
    try:
        with path.open("rb") as stream:
            known = is_of_lines(stream.fileno(), f'{{"{FIRST_KEY}"'.encode())
    except OSError:
        return  # not there, or not readable: writing says so
    if not known:
        raise FoldcamError(
            f"{path} exists and holds no results: choose another name, or remove it first."
        )


def is_direct(target: str) -> bool:
    """Whether a target is standard output, a device or a pipe: nothing to rename or to rotate."""
    path = Path(target)
    return target == STDOUT or (path.exists() and not path.is_file() and not path.is_dir())


def open_direct(path: Path) -> IO[bytes]:
    """A device or a named pipe, without a buffer; a pipe's reader is waited for."""
    deadline = time.monotonic() + READER_SECONDS
    while True:
        try:
            # Opened the usual way, a pipe waits for its reader without an end.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
            if time.monotonic() > deadline:
                raise FoldcamError(
                    f"Nobody reads the pipe {path}: start its reader first."
                ) from None
            time.sleep(0.05)
        else:
            os.set_blocking(handle, True)
            return os.fdopen(handle, "wb", buffering=0)


def repair_jsonl(path: Path) -> bool:
    """Cut a last line that was not finished; whether any whole line is there."""
    with path.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            stream.seek(start)
            found = stream.read(end - start).rfind(b"\n")
            if found >= 0:
                stream.truncate(start + found + 1)
                return True
            end = start
    return False


def _write_all(stream: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stream.write(view) or 0 :]
