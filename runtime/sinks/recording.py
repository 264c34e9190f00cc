"""A recording of any length: one file after the other, bounded, and never a full disk."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import NotWritten, Part, PendingFile, Sink, check_writable
from foldcam.runtime.sinks.options import RecordingOptions
from foldcam.runtime.sinks.segments import DiskGuard, Segments
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import give_usual_mode, lock_before, open_own_file, temporary_stem
from foldcam.runtime.system.logs import log

_YOUNG_S = 60.0
# The encoder of a killed run ends its film by itself, and keeps it locked until then.
_ENDING_S = 2.0


class Recording(Sink):
    """A sink of files, one begun when the one before is finished.

    Without rotation the first file has the path's own name. What a live source gave before is
    never replaced: where that name is taken (by an earlier run, or after a pause), files have the
    names of segments. A file that grows is continued instead.

    Args:
        path: of the file, or of its segments as if they were one.
        live: frames cannot be had again. Then a failed run keeps what is sound, times are those
            of capture, and a guard may pause it.
        repair: makes an unfinished file of a killed run sound, and returns whether it is.
        guard: of the disk; None for a source whose frames must not be lost.
        grows: whether a part adds to the file that is there, under its final name.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        options: RecordingOptions,
        live: bool,
        open_part: Callable[[Path], Part],
        repair: Callable[[Path], bool],
        guard: DiskGuard | None = None,
        grows: bool = False,
    ) -> None:
        self.name = name
        self._path, self._live, self._grows = path, live, grows
        self._open_part, self._guard = open_part, guard
        minutes, megabytes = options.rotate_minutes, options.rotate_mb
        self._seconds = float("inf") if minutes is None else 60.0 * minutes
        self._bytes = float("inf") if megabytes is None else 1e6 * megabytes
        self._plain = not options.rotates
        self._check()
        keep = None if options.keep_gb is None else 1e9 * options.keep_gb
        self._segments = Segments(path, keep)
        rescue_orphans(path, self._segments, repair)
        self._part: Part | None = None
        self._begun = 0.0
        self._finished = 0
        self._lost, self._reason = 0, ""
        self.output = str(path) if self._plain else self._segments.pattern
        if grows and self._plain:
            # Now, and not at the first frame: another run may be writing this file.
            self._part = open_part(path)

    def close(self, failed: bool) -> None:
        """Finish the file; after a failure keep what is sound of a live source's."""
        part, self._part = self._part, None
        if part is None:
            return
        try:
            if failed and self._live:
                part.rescue()
            else:
                part.close(failed)
        finally:
            self._add_losses(part)
        self._segments.trim()

    def losses(self) -> tuple[int, str]:
        """Results that were taken and are in no file that can be read, and why."""
        return self._lost, self._reason

    def reopen(self) -> None:
        """Go on after a failure, in a new file."""
        self._check()

    def write(self, item: FrameResults) -> None:
        """Append one frame to the file that is due."""
        if self._guard is not None and not self._guard.has_room():
            self._finish()
            raise NotWritten(self._guard.reason)
        now = item.frame.captured if self._live else item.frame.timestamp
        if self._part is not None and self._is_due(self._part, now):
            self._finish()
        if self._part is None:
            self._part = self._open_part(self._next_path())
            self._begun = now
        try:
            self._part.write(item)
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

    def _check(self) -> None:
        check_writable(self._path.parent)
        if self._path.is_dir() or (self._path.exists() and not self._path.is_file()):
            PendingFile(self._path).abandon()  # says what is wrong

    def _next_path(self) -> Path:
        if self._plain and self._grows:
            return self._path
        taken = self._finished or (self._live and os.path.lexists(self._path))
        if self._plain and not taken:
            return self._path
        if self._plain:
            more = self._segments.pattern
            self.output = f"{self._path} and {more}" if self._finished else more
        return self._segments.next()

    def _add_losses(self, part: Part) -> None:
        lost, reason = part.losses()
        self._lost, self._reason = self._lost + lost, reason or self._reason

    def _finish(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        self._finished += 1
        if self._live:
            part.rescue()  # the run goes on, whatever there is of this file
        else:
            part.close(failed=False)
        self._add_losses(part)
        self._segments.trim()


def rescue_orphans(path: Path, segments: Segments, repair: Callable[[Path], bool]) -> list[Path]:
    """Give unfinished segments of processes that are gone their names.

    A file that a living process writes is locked by it (see `PendingFile`) and left alone. So is
    whatever is no regular file of this user's with one name: in a folder that somebody else
    prepared, such a name may be a link to a file that must stay as it is.
    """
    rescued: list[Path] = []
    # As `atomic_path` names them, of this recording or of one of its segments.
    stem, suffix = re.escape(temporary_stem(path)), re.escape(path.suffix)
    segment = r"-\d{8}T\d{6}Z-\d{6,18}"
    ours = re.compile(rf"\.({stem}(?:{segment})?)\.[^.]+\.partial{suffix}")
    if not path.parent.is_dir():
        return rescued
    deadline = time.monotonic() + _ENDING_S
    for orphan in sorted(path.parent.glob(".*.partial*")):
        match = ours.fullmatch(orphan.name)
        if match is None:
            continue
        with suppress(OSError):
            named = orphan.with_name(f"{match[1]}{path.suffix}")
            found = _rescue(orphan, named, segments, repair, deadline)
            if found is not None:
                rescued.append(found)
    return rescued


def _rescue(
    orphan: Path, named: Path, segments: Segments, repair: Callable[[Path], bool], deadline: float
) -> Path | None:
    file = open_own_file(orphan)
    if file is None:
        log.warning(
            "left %s alone: it is no file of this user's own (a link, or another's)", orphan
        )
        return None
    try:
        if not lock_before(file, deadline):
            return None  # somebody is writing it
        status = os.fstat(file)
        if status.st_size == 0 and time.time() - status.st_mtime < _YOUNG_S:
            return None  # perhaps made a moment ago, and not locked yet
        # The very file that was checked, whatever has its name by now.
        checked = Path(f"/proc/self/fd/{file}")
        if not checked.exists():
            return None
        sound = repair(checked)
        if not _is_still(orphan, status):
            return None
        if not sound:
            orphan.unlink()
            log.warning("removed what an interrupted run left of %s: it is not readable", named)
            return None
        if not segments.is_segment(named.name) or os.path.lexists(named):
            named = segments.next(datetime.fromtimestamp(status.st_mtime, timezone.utc))
        give_usual_mode(file)
        orphan.rename(named)
        log.warning("recovered %s from an interrupted run", named)
        return named
    finally:
        os.close(file)


def _is_still(path: Path, status: os.stat_result) -> bool:
    """Whether a name is still that of the file which was opened."""
    now = path.lstat()
    return (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino)
