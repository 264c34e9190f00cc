"""Files of a long recording, within bounds: their names, what is removed, room on the disk."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.logs import log

_EVERY_S = 1.0
_MARGIN = 1.1


class Segments:
    """Files `STEM-20261126T215914Z-000042.mkv`: when each was begun, and its number.

    Order is by number, which goes on from the highest in the folder: a clock that jumps
    changes what a name says, not which segment is older, and no name comes twice.
    """

    def __init__(self, path: Path, keep_bytes: float | None = None) -> None:
        self._path = path
        self._keep = keep_bytes
        stem, suffix = re.escape(path.stem), re.escape(path.suffix)
        self._pattern = re.compile(rf"{stem}-\d{{8}}T\d{{6}}Z-(\d{{6,18}}){suffix}")
        self._number = max((number for number, _ in self._found()), default=0)

    @property
    def pattern(self) -> str:
        """All names, in words for a summary."""
        return str(self._path.with_name(f"{self._path.stem}-*{self._path.suffix}"))

    def next(self, begun: datetime | None = None) -> Path:
        """The name of a new segment."""
        begun = begun or datetime.now(timezone.utc)
        self._number += 1
        name = f"{self._path.stem}-{stamp(begun)}-{self._number:06d}{self._path.suffix}"
        return self._path.with_name(name)

    def write_image(self, image: Image, begun: datetime) -> Path:
        """Write a picture, see `write_file`."""
        return self.write_file(begun, lambda path, another: write_image(path, image, 92, another))

    def write_file(
        self, begun: datetime, write: Callable[[Path, Callable[[], Path]], None]
    ) -> Path:
        """Write a file under the next name that is free, and say which that was.

        Several runs may write into one folder: none takes a name that another has given.

        Args:
            write: gets the name, and what gives another if it is taken when the file is whole.
        """
        names = [self.next(begun)]

        def another() -> Path:
            names.append(self.next(begun))
            return names[-1]

        write(names[0], another)
        return names[-1]

    def is_segment(self, name: str) -> bool:
        """Whether a file name is one of these."""
        return self._pattern.fullmatch(name) is not None

    def trim(self) -> list[Path]:
        """Remove the oldest segments above `keep_bytes`, the newest never; those removed."""
        if self._keep is None:
            return []
        found = sorted(self._found())
        sizes = [_size(path) for _, path in found]
        total, removed = sum(sizes), []
        for (_, path), size in zip(found[:-1], sizes[:-1], strict=True):
            if total <= self._keep:
                break
            with suppress(OSError):
                path.unlink()
                removed.append(path)
                total -= size
        if removed:
            log.info("removed %d old segments of %s", len(removed), self._path)
        return removed

    def _found(self) -> list[tuple[int, Path]]:
        folder = self._path.parent
        if not folder.exists():
            return []
        try:
            names = [entry.name for entry in folder.iterdir()]
        except OSError as error:
            raise FoldcamError(f"{folder} cannot be read: {error.strerror or error}.") from error
        matches = [self._pattern.fullmatch(name) for name in names]
        return [(int(match[1]), folder / match[0]) for match in matches if match]


def stamp(moment: datetime) -> str:
    """A moment in UTC for file names, such as `20261126T215914Z`."""
    return f"{moment:%Y%m%dT%H%M%SZ}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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
