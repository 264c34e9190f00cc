"""Room on a disk, watched before it runs out."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from foldcam.runtime.system.logs import log

_EVERY_S = 1.0
_MARGIN = 1.1


class DiskGuard:
    """Says whether a disk has enough room; may be asked from any thread, as often as one likes.

    Recording resumes when there is a tenth more than what it needs, so that it does not stop
    and go with every file.
    """

    def __init__(
        self,
        folder: Path,
        least: float,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._least = folder, least
        self._free, self._clock = free, clock
        self._lock = threading.Lock()
        self._asked = -float("inf")
        self._room = True

    @property
    def reason(self) -> str:
        """Why there is no room, as a clause."""
        return f"less than {self._least / 1e9:.3g} GB are free on the disk of {self._folder}"

    def has_room(self) -> bool:
        """Whether recording may go on; the disk is looked at once a second at most."""
        if self._least <= 0:
            return True
        with self._lock:
            now = self._clock()
            if now - self._asked >= _EVERY_S:
                self._asked = now
                self._look()
            return self._room

    def _look(self) -> None:
        try:
            free = self._free(_existing(self._folder))
        except OSError:
            return  # the disk itself is gone: writing says so better
        room = free >= self._least * (1.0 if self._room else _MARGIN)
        if room != self._room:
            self._room = room
            if room:
                log.warning("recording resumes: there is room on the disk of %s", self._folder)
            else:
                log.warning("recording pauses: %s", self.reason)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    for candidate in (folder, *folder.absolute().parents):
        if candidate.exists():
            return candidate
    return folder
