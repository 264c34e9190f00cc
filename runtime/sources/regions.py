"""The protocol of whatever finds regions, and the checks on what it returns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import Box, RegionOptions
from foldcam.runtime.system.documents import Finite, Natural, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.strict_json import parse_json
from foldcam.runtime.system.text import printable
from foldcam.runtime.system.user_code import load_function, mistakes_of

OFTEN = 8
"""Boxes on a frame, where nothing is known of it."""
MAX_BOXES = 10_000
"""Per frame."""
_Box = tuple[Finite, Finite, Finite, Finite]


class Finder(Protocol):
    """`frame -> boxes`, the whole protocol; a function will do."""

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """Find the regions of a frame.

        Returns:
            `[n, 4]` of `x, y, width, height` in the frame's pixels, which need not be whole
            or inside; n may be 0.
        """


class Regions:
    """Boxes that can be cut out of a frame, from any finder.

    They are rounded to whole pixels and clipped to the frame; those of which nothing is
    left are dropped and counted.

    Args:
        find: finds them.
        name: of the finder, for the messages.
        usual: boxes per frame to expect, which decides the size of batches.
    """

    def __init__(self, find: Finder, name: str, usual: int) -> None:
        self._find = find
        self._name = name
        self.usual = max(1, usual)
        self.empty = 0
        """Boxes that were dropped."""

    def __call__(self, frame: Frame) -> list[Box]:
        """The boxes of a frame, as `(x, y, width, height)` within it.

        Raises:
            FoldcamError: the finder failed, or returned something other than boxes.
        """
        height, width = frame.image.shape[:2]
        found = checked(self._find(frame), self._name)
        boxes = clipped(found, width, height)
        self.empty += len(found) - len(boxes)
        return boxes


def checked(boxes: Any, name: str) -> npt.NDArray[np.float64]:
    """What a finder returned as `float64 [n, 4]`."""
    try:
        array = np.asarray([] if boxes is None else boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise FoldcamError(
            f"{name} returned {type(boxes).__name__} that is no array of numbers: return boxes "
            "[n, 4] of x, y, width, height."
        ) from error
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise FoldcamError(
            f"{name} returned an array of shape {list(array.shape)}: return boxes [n, 4] of x, y, "
            "width, height."
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise FoldcamError(f"{name} returned a number that is not finite in box {row}.")
    return array


def clipped(
    boxes: Sequence[Sequence[float]] | npt.NDArray[Any], width: int, height: int
) -> list[Box]:
    """Boxes in whole pixels inside of a frame; those without area are left out.

    Args:
        boxes: `[n, 4]` of x, y, width, height, finite.
        width, height: of the frame in pixels.
    """
    kept: list[Box] = []
    for x, y, across, down in boxes:
        left, right = (min(max(round(edge), 0), width) for edge in (float(x), float(x + across)))
        top, bottom = (min(max(round(edge), 0), height) for edge in (float(y), float(y + down)))
        if right > left and bottom > top:
            kept.append((left, top, right - left, bottom - top))
    return kept


def open_regions(options: RegionOptions) -> Regions | None:
    """The regions that a user asked for; None where the network is shown whole frames."""
    asked = [
        name
        for name, value in (
            ("boxes", options.boxes),
            ("a grid", options.grid),
            ("a detector", options.detector),
            ("a file of boxes", options.file),
        )
        if value
    ]
    if len(asked) > 1:
        raise FoldcamError(f"Regions are asked for as {' and as '.join(asked)}: give one of them.")
    if options.boxes:
        for box in options.boxes:
            if box[2] < 1 or box[3] < 1:
                raise FoldcamError(f"The box {','.join(map(str, box))} has no area.")
        return Regions(FixedBoxes(options.boxes), "The list of boxes", len(options.boxes))
    if options.grid:
        columns, rows = options.grid
        if min(columns, rows) < 1:
            raise FoldcamError(f"A grid of {columns} x {rows} has no cells: give 2x2, for example.")
        return Regions(Grid(columns, rows), "The grid", columns * rows)
    if options.detector:
        detector = Detector(options.detector)
        return Regions(detector, detector.name, OFTEN)
    if options.file:
        file = BoxFile(Path(options.file))
        return Regions(file, file.name, file.most)
    return None


class FixedBoxes:
    """The same boxes on every frame."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self._boxes = np.asarray(boxes, np.float64).reshape(-1, 4)

    def __call__(self, frame: Frame, /) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """The boxes."""
        return self._boxes


class Grid:
    """Equal cells that cover the frame, row by row; they meet at whole pixels."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def __call__(self, frame: Frame, /) -> npt.NDArray[np.float64]:
        """The cells."""
        height, width = frame.image.shape[:2]
        across = np.rint(np.linspace(0, width, self._columns + 1))
        down = np.rint(np.linspace(0, height, self._rows + 1))
        return np.array(
            [
                (left, top, right - left, bottom - top)
                for top, bottom in itertools.pairwise(down)
                for left, right in itertools.pairwise(across)
            ]
        )


class Detector:
    """Calls a function of the user's; whatever it raises becomes one sentence.

    Args:
        name: as `load_function` takes it. The function takes `uint8 [H, W, 3]` RGB, into which it
            must not write, and returns boxes `[n, 4]` of x, y, width, height in pixels.
    """

    def __init__(self, name: str) -> None:
        self.name = f"The detector {printable(name)}"
        self._function = load_function(name, self.name)

    def __call__(self, frame: Frame, /) -> npt.ArrayLike:
        """The boxes of a frame."""
        with mistakes_of(f"{self.name} failed on frame {frame.index} of {frame.source}"):
            boxes: npt.ArrayLike = self._function(frame.image)
        return boxes


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
