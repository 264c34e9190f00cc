"""Overlays as single pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from foldcam.runtime.images.files import WRITTEN_SUFFIXES, write_image
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.record import capture_time
from foldcam.runtime.sinks.base import (
    NotWritten,
    PendingFile,
    Sink,
    check_writable,
    refuse_input,
)
from foldcam.runtime.sinks.guard import DiskGuard
from foldcam.runtime.sinks.segments import Segments
from foldcam.runtime.sources.base import Source

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")
_TRIM_EVERY = 100


class PicturesSink(Sink):
    """Overlays of frames, each complete before it has its name.

    - One photograph and the name of a picture: that very name.
    - One source of photographs: the folder mirrors the folders of the input. JPEG stays JPEG,
      everything else becomes PNG, and two inputs never share an output.
    - Otherwise JPEG files: `film-000000042.jpg` of a recorded source, by frame, and
      `camera-0-20261126T215914Z-000042.jpg` of a live one, by time and number, which goes on over
      several runs.

    Args:
        sources: of the run; `Frame.stream` says which of them a frame is of.
        keep_bytes: of a live source's pictures the oldest are removed above this; None keeps all.
        guard: of the disk; None for sources whose frames must not be lost.
    """

    name = "pictures"
    takes_one_name = True
    """Whether the target may be the file of a single photograph's output."""
    suffix = ".jpg"
    """Of what is written of a video or camera."""

    def __init__(
        self,
        target: Path,
        sources: Sequence[Source],
        every: int = 1,
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self._target, self._every, self._guard = target, every, guard
        self._single = self.takes_one_name and names_one_picture(target, sources)
        self._mirrors = len(sources) == 1 and sources[0].stills
        self._stems = stems_of(sources)
        self._used: set[Path] = set()
        self._count: Counter[int] = Counter()
        self._written = 0
        self.output = str(target) if self._single else f"{target}/"
        live = {stream for stream, source in enumerate(sources) if source.live}
        if self._single:
            claimed = [target]
        else:
            # Found out now, not after the model was loaded and the first frame computed.
            check_writable(target)
            stems = set(range(len(sources))) - live
            claimed = [target / (self.name if self._mirrors else self._stems[n]) for n in stems]
        # Names that are always the same: two runs at once would mix their pictures.
        self._claims = [PendingFile(path) for path in claimed]
        self._segments = {
            n: Segments(target / f"{self._stems[n]}{self.suffix}", keep_bytes) for n in sorted(live)
        }

    def close(self, failed: bool) -> None:  # noqa: ARG002
        """Let others write; the pictures stay whatever happened."""
        for claim in self._claims:
            claim.abandon()
        for segments in self._segments.values():
            segments.trim()

    def reopen(self) -> None:
        """Go on after a failure."""
        check_writable(self._target.parent if self._single else self._target)

    def write(self, item: FrameResults) -> None:
        """Write one picture, or none if it is not this frame's turn."""
        stream = item.frame.stream
        self._count[stream] += 1
        if (self._count[stream] - 1) % self._every:
            return
        if self._guard is not None and not self._guard.has_room():
            raise NotWritten(self._guard.reason)
        segments = None if self._mirrors else self._segments.get(stream)
        if segments is None:
            path = self._path_of(item)
            refuse_input(path, item.frame.source)
            self.write_one(item, path, None)
            return
        segments.write_file(
            capture_time(item.frame), lambda path, another: self.write_one(item, path, another)
        )
        self._written += 1
        # Listing a folder of a million pictures for each of them would be all that is done.
        if self._written % _TRIM_EVERY == 0:
            segments.trim()

    def write_one(self, item: FrameResults, path: Path, another: Callable[[], Path] | None) -> None:
        """Write what belongs to a frame, whole or not at all."""
        write_image(path, item.image, another=another)

    def renamed(self, path: Path) -> Path:
        """The name of a photograph's output, by that of the photograph in the target folder."""
        kept = path.suffix.lower() in _KEPT_SUFFIXES
        return path if kept else path.with_name(f"{path.name}.png")

    def _path_of(self, item: FrameResults) -> Path:
        if self._single:
            return self._target
        if self._mirrors:
            return self._mirrored(item.frame.name)
        name = f"{self._stems[item.frame.stream]}-{item.frame.index:09d}{self.suffix}"
        return self._target / name

    def _mirrored(self, name: PurePath) -> Path:
        # A pattern may reach above its root; an output never leaves the folder.
        parts = [part for part in name.parts if part not in ("..", name.anchor)]
        path = self.renamed(self._target.joinpath(*parts))
        stem, number = path.stem, 1
        while path in self._used:
            number += 1
            path = path.with_name(f"{stem}-{number}{path.suffix}")
        self._used.add(path)
        return path


def names_one_picture(target: Path, sources: Sequence[Source]) -> bool:
    """Whether the input is one photograph and the target the name of its overlay."""
    return (
        target.suffix.lower() in WRITTEN_SUFFIXES
        and not target.is_dir()
        and [source.frames for source in sources if source.stills] == [1]
        and len(sources) == 1
    )


def stems_of(sources: Sequence[Source]) -> list[str]:
    """A name for each source's outputs; sources of one name are numbered."""
    count = Counter(source.stem for source in sources)
    return [
        source.stem if count[source.stem] == 1 else f"{source.stem}-{stream}"
        for stream, source in enumerate(sources)
    ]
