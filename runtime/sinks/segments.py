"""Names of the files of a long recording, and which of them are removed."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.logs import log


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
