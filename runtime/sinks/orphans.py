"""What a killed run left behind: its unfinished files get a name if they are sound."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from foldcam.runtime.sinks.segments import Segments
from foldcam.runtime.system.files import give_usual_mode, open_own_file, temporary_stem
from foldcam.runtime.system.locks import lock_before
from foldcam.runtime.system.logs import log

_YOUNG_S = 60.0
# The encoder of a killed run ends its film by itself, and keeps it locked until then.
_ENDING_S = 2.0


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
    orphan: Path,
    named: Path,
    segments: Segments,
    repair: Callable[[Path], bool],
    deadline: float,
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
