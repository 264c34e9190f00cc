"""Boxes from a file of JSON lines, one line per frame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from foldcam.runtime.sources import Frame
from foldcam.runtime.system.documents import Finite, Natural, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.strict_json import parse_json

MAX_BOXES = 10_000
"""Per frame."""
_Box = tuple[Finite, Finite, Finite, Finite]


class _Line(Struct, frozen=True):
    boxes: Annotated[tuple[_Box, ...], Meta(max_length=MAX_BOXES)]
    name: str | None = None
    frame: Natural | None = None
    stream: Natural = 0


class BoxFile:
    """Boxes that were found beforehand.

    A line is `{"frame": 7, "boxes": [[x, y, width, height], ...]}`, by the frame's number
    in its source, or `{"name": "owls/3.jpg", "boxes": [...]}`, by a photograph's name
    below the folder that is read. `"stream": 1` names one of several sources. A frame
    without a line has no regions.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"The file of boxes {path}"
        self._boxes: dict[tuple[int, int | str], npt.NDArray[np.float32]] = {}
        refuse_special(path)
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._add(line, f"{path}, line {number}")
        except OSError as error:
            raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """The boxes of a frame."""
        for key in (frame.index, frame.name.as_posix()):
            if (frame.stream, key) in self._boxes:
                return self._boxes[frame.stream, key]
        return ()

    @property
    def most(self) -> int:
        """Boxes on one frame at most."""
        return max(map(len, self._boxes.values()), default=0)

    def _add(self, line: bytes, where: str) -> None:
        try:
            document = parse_json(line.decode("utf-8"))
        except ValueError as error:
            raise FoldcamError(f"{where}: not JSON.") from error
        read = read_document(_Line, document, where)
        key = read.frame if read.name is None else read.name
        if key is None:
            raise FoldcamError(f"{where}: frame is missing.")
        if (read.stream, key) in self._boxes:
            named = "frame" if read.name is None else "name"
            raise FoldcamError(f"{where}: {named} {key!r} has a line already.")
        self._boxes[read.stream, key] = np.asarray(read.boxes, np.float32).reshape(-1, 4)
