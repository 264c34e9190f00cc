"""Letting a model of bytes take floats of the same values, for a stack that gives no bytes.

Its graph casts its input to float first, and a cast of floats changes nothing: only the declared
type is another one, a single byte of the file.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from foldcam.runtime.contract.protobuf import VARINT, Buffer, fields, length_delimited
from foldcam.runtime.contract.schema import IMAGE
from foldcam.runtime.system.errors import FoldcamError

_FLOAT, _UINT8 = 1, 2
_GRAPH, _INPUT = 7, 11


def take_floats(path: Path) -> None:
    """Declare the input `image` of an ONNX file as float32 in place of uint8."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as buffer:
        places = list(_places(buffer))
        if len(places) != 1:
            raise FoldcamError(f"{path} has no input {IMAGE!r} of bytes.")
        buffer[places[0]] = _FLOAT


def _places(buffer: Buffer) -> list[int]:
    """Where the type of the input stands: `graph.input[].type.tensor_type.elem_type`."""
    places = []
    for graph, start, end in length_delimited(buffer, 0, len(buffer)):
        for number, low, high in length_delimited(buffer, start, end) if graph == _GRAPH else ():
            if number != _INPUT:
                continue
            name, place = b"", None
            for field, first, last in length_delimited(buffer, low, high):
                if field == 1:
                    name = bytes(buffer[first:last])
                elif field == 2:
                    place = _element_type(buffer, first, last)
            if name == IMAGE.encode() and place is not None:
                places.append(place)
    return places


def _element_type(buffer: Buffer, start: int, end: int) -> int | None:
    for field, first, last in length_delimited(buffer, start, end):
        if field == 1:
            for number, wire, value, stop in fields(buffer, first, last):
                if (number, wire, value) == (1, VARINT, _UINT8):
                    return stop - 1
    return None
