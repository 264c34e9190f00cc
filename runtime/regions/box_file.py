"""Boxes from a file of JSON lines, one line per frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.fields import Fields
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.sources import Frame
from foldcam.runtime.system.files import refuse_special

MAX_BOXES = 10_000
"""Per frame."""


class BoxFile:
    """Boxes that were found beforehand.

    A line is `{"frame": 7, "boxes": [[x, y, width, height], ...]}`, by the frame's number
    in its source, or `{"name": "owls/3.jpg", "boxes": [...]}`, by a photograph's name
    below the folder that is read. `"stream": 1` names one of several sources. A frame
    without a line has no regions.

    Args:
        path: the file.

    Raises:
        FoldcamError: it cannot be read; the message names the line.
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
            document: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FoldcamError(f"{where}: not JSON.") from error
        fields = Fields(document, where)
        named = isinstance(document, dict) and "name" in document
        key = fields.text("name") if named else fields.integer("frame")
        stream = fields.integer("stream") if "stream" in document else 0
        boxes = fields.number_lists("boxes", MAX_BOXES, 4)
        if (stream, key) in self._boxes:
            fields.fail("name" if named else "frame", f"{key!r} has a line already")
        self._boxes[stream, key] = np.asarray(boxes, np.float32).reshape(-1, 4)
