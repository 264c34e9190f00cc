"""A recording of any length: one file after the other, bounded, and never a full disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from runtime.errors import FoldcamError
from runtime.output_options import RecordingOptions
from runtime.seen import Seen
from runtime.sinks.base import NotWritten, Part, PendingFile
from runtime.sinks.guard import DiskGuard
from runtime.sinks.orphans import rescue_orphans
from runtime.sinks.segments import Segments


class Recording:
    """A sink of files, each begun and finished in turn.

    Without rotation the first file has the path's own name; after a pause (no room, an error)
    the next ones have the names of segments, so that nothing is written over.

    Args:
        name: of the sink.
        path: of the file, or of its segments as if they were one.
        options: rotation and what is kept.
        live: frames cannot be had again. Then a failed run keeps what is sound, times are those
            of capture, and a guard may pause it.
        open_part: begins a file.
        mend: makes an unfinished file of a killed run sound, and says whether it is.
        guard: of the disk; None for a source whose frames must not be lost.

    Raises:
        FoldcamError: the folder cannot be written.
    """

    may_skip = False

    def __init__(
        self,
        name: str,
        path: Path,
        options: RecordingOptions,
        live: bool,
        open_part: Callable[[Path], Part],
        mend: Callable[[Path], bool],
        guard: DiskGuard | None = None,
    ) -> None:
        self.name = name
        self._path, self._live = path, live
        self._open_part, self._guard = open_part, guard
        minutes, megabytes = options.rotate_minutes, options.rotate_mb
        self._seconds = float("inf") if minutes is None else 60.0 * minutes
        self._bytes = float("inf") if megabytes is None else 1e6 * megabytes
        self._plain = not options.rotates
        PendingFile(path).abandon()
        keep = None if options.keep_gb is None else 1e9 * options.keep_gb
        self._segments = Segments(path, keep)
        rescue_orphans(path, self._segments, mend)
        self._part: Part | None = None
        self._begun = 0.0
        self._finished = 0
        self.output: str | None = str(path) if self._plain else self._segments.pattern

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        if kind is not None and self._live:
            part.rescue()
        else:
            part.__exit__(kind, error, trace)
        self._segments.trim()

    def reopen(self) -> None:
        """Go on after a failure, in a new file.

        Raises:
            FoldcamError: the folder cannot be written yet.
        """
        PendingFile(self._path).abandon()

    def write(self, seen: Seen) -> None:
        """Append one frame to the file that is due.

        Raises:
            FoldcamError: the file cannot be written; what is sound of it is kept if live.
            NotWritten: there is no room.
        """
        if self._guard is not None and not self._guard.has_room():
            self._finish()
            raise NotWritten(self._guard.reason)
        now = seen.frame.captured if self._live else seen.frame.timestamp
        if self._part is not None and self._is_due(self._part, now):
            self._finish()
        if self._part is None:
            self._part = self._open_part(self._next_path())
            self._begun = now
        try:
            self._part.write(seen)
        except FoldcamError:
            if self._live:
                self._finish()
            raise

    def _is_due(self, part: Part, now: float) -> bool:
        if now < self._begun:
            self._begun = now  # another source's time, or one that began again
        if now - self._begun >= self._seconds:
            return True
        # Without a limit the disk need not be asked.
        return self._bytes < float("inf") and part.size >= self._bytes

    def _next_path(self) -> Path:
        if self._plain and not self._finished:
            return self._path
        return self._segments.next()

    def _finish(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        self._finished += 1
        if self._live:
            part.rescue()  # the run goes on, whatever there is of this file
        else:
            part.__exit__(None, None, None)
        self._segments.trim()
