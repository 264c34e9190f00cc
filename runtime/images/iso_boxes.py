"""The boxes of an ISO container (HEIC, AVIF, JPEG 2000), as far as a picture's size needs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_MOST_BOXES = 10_000


class Box(NamedTuple):
    """One box: its kind, and where its content lies."""

    kind: bytes
    start: int
    end: int


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes that lie side by side between two offsets.

    One that claims to end behind `end` is given with that claim, and is the last.
    """
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        length = int.from_bytes(data[start : start + 4], "big")
        kind, head = data[start + 4 : start + 8], 8
        if length == 1:
            if start + 16 > end:
                return
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        elif length == 0:
            length = end - start
        if length < head:
            return
        yield Box(kind, start + head, start + length)
        start += length
        if start > end:
            return


# How many bytes stand before the boxes inside a box.
_CONTAINERS = {
    b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0,
    b"stsd": 8,
}  # fmt: skip
_SAMPLES = frozenset({b"av01", b"hvc1", b"hev1"})


def sizes(data: bytes) -> list[tuple[int, int]]:
    """Every width and height, in pixels, that a HEIC or AVIF file names for a picture in it."""
    found: list[tuple[int, int]] = []
    waiting = list(boxes(data, 0, len(data)))
    for _ in range(_MOST_BOXES):
        if not waiting:
            break
        box = waiting.pop()
        end = min(box.end, len(data))
        if box.kind in _CONTAINERS:
            waiting += boxes(data, box.start + _CONTAINERS[box.kind], end)
        elif box.kind == b"ispe" and box.start + 12 <= end:
            found.append(_pair(data, box.start + 4, 4))
        elif box.kind in _SAMPLES and box.start + 28 <= end:
            found.append(_pair(data, box.start + 24, 2))
    return found


def whole(data: bytes) -> bool:
    """Whether no box claims to go on behind the end of the file."""
    return all(box.end <= len(data) for box in boxes(data, 0, len(data)))


def _pair(data: bytes, at: int, size: int) -> tuple[int, int]:
    return (
        int.from_bytes(data[at : at + size], "big"),
        int.from_bytes(data[at + size : at + 2 * size], "big"),
    )
