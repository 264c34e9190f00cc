"""Single pictures of a video or a camera: every frame, or one of N."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.images.files import write_image
from foldcam.runtime.sinks.base import NotWritten, PendingFile, check_writable
from foldcam.runtime.sinks.guard import DiskGuard
from foldcam.runtime.sinks.record import capture_time
from foldcam.runtime.sinks.segments import Segments
from foldcam.runtime.sources.base import Source

_TRIM_EVERY = 100


class PicturesSink:
    """Overlays as JPEG files, each complete before it has its name.

    A recorded source's are called `film-000000042.jpg`, by frame; a live one's
    `camera-0-20261126T215914Z-000042.jpg`, by time and number, also over several runs.

    Args:
        folder: made if it is missing.
        sources: of the run; `Frame.stream` says which of them a frame is of.
        every: of so many frames of a source one is written.
        keep_bytes: of a live source's pictures; the oldest go above it.
        guard: of the disk; None for sources whose frames must not be lost.

    Raises:
        FoldcamError: the folder cannot be written.
    """

    name = "pictures"
    may_skip = False

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        every: int = 1,
        keep_bytes: float | None = None,
        guard: DiskGuard | None = None,
    ) -> None:
        self._folder, self._every, self._guard = folder, every, guard
        self.output: str | None = f"{folder}/"
        check_writable(folder)
        self._stems = stems_of(sources)
        # A recorded source's names are always the same: two runs at once would mix theirs.
        self._claims = [
            PendingFile(folder / self._stems[stream])
            for stream, source in enumerate(sources)
            if not source.live
        ]
        self._segments = {
            stream: Segments(folder / f"{self._stems[stream]}.jpg", keep_bytes)
            for stream, source in enumerate(sources)
            if source.live
        }
        self._seen: Counter[int] = Counter()
        self._written = 0

    def __enter__(self) -> PicturesSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for claim in self._claims:
            claim.abandon()
        for segments in self._segments.values():
            segments.trim()

    def reopen(self) -> None:
        """Go on after a failure.

        Raises:
            FoldcamError: the folder cannot be written yet.
        """
        check_writable(self._folder)

    def write(self, item: FrameResults) -> None:
        """Write one picture, or none if it is not this frame's turn."""
        stream = item.frame.stream
        self._seen[stream] += 1
        if (self._seen[stream] - 1) % self._every:
            return
        if self._guard is not None and not self._guard.has_room():
            raise NotWritten(self._guard.reason)
        segments = self._segments.get(stream)
        if segments is None:
            path = self._folder / f"{self._stems[stream]}-{item.frame.index:09d}.jpg"
            write_image(path, item.image)
        else:
            segments.write_image(item.image, capture_time(item.frame))
        self._written += 1
        # Listing a folder of a million pictures for each of them would be all that is done.
        if segments is not None and self._written % _TRIM_EVERY == 0:
            segments.trim()


def stems_of(sources: Sequence[Source]) -> list[str]:
    """A name for each source's outputs; sources of one name are numbered."""
    count = Counter(source.stem for source in sources)
    return [
        source.stem if count[source.stem] == 1 else f"{source.stem}-{stream}"
        for stream, source in enumerate(sources)
    ]
