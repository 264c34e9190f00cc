"""Weights of an ONNX file that lie in other files, and which of those may be read.

Libraries differ in what they open: ONNX Runtime before 1.24 reads `../secret`, others follow
links. So foldcam decides, before any library sees the file, wherever in it a tensor may be: in
constants, in attributes, in subgraphs, in sparse tensors, in functions, in training graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.contract.protobuf import (
    BYTES,
    TENSOR,
    VARINT,
    Buffer,
    MalformedError,
    fields,
    messages,
)
from foldcam.runtime.system.text import printable, shorten

_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_EXTERNAL = 1
_LONGEST_LOCATION = 4096
_MOST_DIGITS = 18


class ExternalDataError(Exception):
    """A weight in a file that may not or cannot be read; the message is a sentence."""


@dataclass(frozen=True)
class External:
    """A tensor whose numbers lie in another file.

    Attributes:
        location: the file, relative to the ONNX file's folder.
        length: in bytes; None for all to the end of that file.
        read: whether the tensor says that its numbers are there. A leftover entry is not read,
            but some readers join the pieces of a tensor that is written twice.
    """

    name: str
    location: str
    offset: int
    length: int | None
    read: bool


def external_data(buffer: Buffer) -> Iterator[External]:
    """Every tensor of an ONNX file that names another file, wherever it is.

    Raises:
        ExternalDataError: its entries contradict each other, or are no places.
        MalformedError: as `runtime.contract.protobuf.messages`.
    """
    for _, start, end in messages(buffer, {TENSOR}):
        if (found := _of_tensor(buffer, start, end)) is not None:
            yield found


def checked_places(path: Path, found: Iterable[External]) -> list[Path]:
    """Where the numbers are, one file for each tensor; every one may be read.

    Raises:
        ExternalDataError: a place outside of the ONNX file's folder, whatever leads there; or
            a file that is missing, no regular file, or shorter than the tensor needs.
    """
    # Not of what the ONNX file itself may link to: libraries look beside the name they are given.
    folder = path.parent.resolve()
    return [_place(folder, each) for each in found]


def _place(folder: Path, tensor: External) -> Path:
    shown = repr(printable(shorten(tensor.location, 80)))
    name = repr(printable(shorten(tensor.name, 80)))
    if not tensor.location and tensor.read:
        raise ExternalDataError(f"its weight {name} lies in another file, and none is named.")
    try:
        place = (folder / tensor.location).resolve() if _is_below(tensor.location) else None
    except RuntimeError:  # links that lead in a circle
        place = None
    if place is None or not place.is_relative_to(folder):
        raise ExternalDataError(
            f"its weight {name} lies in {shown}, outside of the file's folder, where nothing is "
            "read from: export the network again with its weights beside it, themselves and not a "
            "link to them."
        )
    if not tensor.read:
        return place
    if not place.exists():
        raise ExternalDataError(
            f"its weights are in {shown}, which is missing; put that file beside it."
        )
    if not place.is_file():
        raise ExternalDataError(f"its weight {name} lies in {shown}, which is no regular file.")
    size = place.stat().st_size
    if tensor.offset + (tensor.length or 0) > size:
        raise ExternalDataError(
            f"{shown} ends before the weight {name}: it is cut short or belongs to another network."
        )
    return place


def _is_below(location: str) -> bool:
    """Whether the text itself names a place below a folder, for readers of any system."""
    parts = location.replace("\\", "/").split("/")
    return not (
        location.startswith(("/", "\\"))
        or ".." in parts
        # A drive; and `*/_ORT_MEM_ADDR_/*`, by which ONNX Runtime means an address in memory.
        or any(character in location for character in ":*\0")
        # Weights are not in hidden files, but keys and passwords are.
        or any(part.startswith(".") and part != "." for part in parts)
    )


def _of_tensor(buffer: Buffer, start: int, end: int) -> External | None:
    name, location_kind = "", 0
    entries: dict[str, str] = {}
    for number, wire, value, stop in fields(buffer, start, end):
        if number == _NAME and wire == BYTES:
            name = _text(buffer, value, min(stop, value + _LONGEST_LOCATION))
        elif number == _DATA_LOCATION and wire == VARINT:
            # An enumeration: other readers drop what goes beyond 32 bits.
            location_kind = value & 0xFFFFFFFF
        elif number == _EXTERNAL_DATA and wire == BYTES:
            key, text = _entry(buffer, value, stop)
            if key in entries:
                # Which of the two another reader takes is up to that reader.
                raise ExternalDataError(
                    f"its weight {name!r} has two entries {printable(key)!r} for the file that it "
                    "lies in: it was tampered with."
                )
            entries[key] = text
    if location_kind != _EXTERNAL and not entries:
        return None
    return External(
        name,
        entries.get("location", ""),
        _number(name, "offset", entries.get("offset", "0")),
        _number(name, "length", entries["length"]) if "length" in entries else None,
        location_kind == _EXTERNAL,
    )


def _entry(buffer: Buffer, start: int, end: int) -> tuple[str, str]:
    key = value = ""
    for number, wire, first, stop in fields(buffer, start, end):
        if wire == BYTES and number == 1:
            key = _text(buffer, first, stop)
        elif wire == BYTES and number == 2:
            value = _text(buffer, first, stop)
    return key, value


def _number(name: str, what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ExternalDataError(
            f"its weight {printable(shorten(name, 80))!r} has the {what} "
            f"{printable(shorten(text, 80))!r}, which is no number of bytes: the file is damaged."
        )
    return int(text)


def _text(buffer: Buffer, start: int, end: int) -> str:
    if end - start > _LONGEST_LOCATION:
        raise MalformedError
    return bytes(buffer[start:end]).decode("utf-8", errors="surrogateescape")
