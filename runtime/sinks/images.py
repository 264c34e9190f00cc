"""One overlay picture per photograph."""

from __future__ import annotations

from pathlib import Path, PurePath
from types import TracebackType

from foldcam.runtime.drawing.frame_results import FrameResults
from foldcam.runtime.images.files import write_image
from foldcam.runtime.sinks.base import PendingFile, check_writable, refuse_input

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImagesSink:
    """Overlays in a folder that mirrors the folders of the input.

    JPEG stays JPEG, everything else becomes PNG. Two inputs never share an output.

    Args:
        folder: made if it is missing.
        every: of so many photographs one is written.

    Raises:
        FoldcamError: it cannot be written.
    """

    name = "images"
    may_skip = False

    def __init__(self, folder: Path, every: int = 1) -> None:
        self._folder, self._every, self._seen = folder, every, 0
        self._used: set[Path] = set()
        self.output: str | None = f"{folder}/"
        # Found out now, not after the model was loaded and the first frame computed.
        check_writable(folder)
        # Two runs at once would write over each other's pictures of the same names.
        self._claim = PendingFile(folder / "overlays")

    def __enter__(self) -> ImagesSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._claim.abandon()

    def write(self, item: FrameResults) -> None:
        """Write one overlay; each is complete before it has its name."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        target = self._unique(item.frame.name)
        refuse_input(target, item.frame.source)
        write_image(target, item.image)

    def _unique(self, name: PurePath) -> Path:
        # A pattern may reach above its root; an output never leaves the folder.
        parts = [part for part in name.parts if part not in ("..", name.anchor)]
        target = self._folder.joinpath(*parts)
        if target.suffix.lower() not in _KEPT_SUFFIXES:
            target = target.with_name(f"{target.name}.png")
        stem, number = target.stem, 1
        while target in self._used:
            number += 1
            target = target.with_name(f"{stem}-{number}{target.suffix}")
        self._used.add(target)
        return target


class OneImageSink:
    """The overlay of a single photograph under the very name that was asked for."""

    name = "images"
    may_skip = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.output: str | None = str(path)
        self._claim = PendingFile(path)

    def __enter__(self) -> OneImageSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._claim.abandon()

    def write(self, item: FrameResults) -> None:
        """Write the overlay."""
        refuse_input(self._path, item.frame.source)
        write_image(self._path, item.image)
