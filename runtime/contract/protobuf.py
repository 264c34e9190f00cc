"""Protocol-buffer messages walked field by field, without the library and without copies."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator

Buffer = bytes | mmap.mmap

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Of one message: a graph has fewer nodes and weights than that.
_MAX_FIELDS = 1 << 20
TENSOR, NODE, ATTRIBUTE, VALUE = "TensorProto", "NodeProto", "AttributeProto", "ValueInfoProto"
_GRAPH, _FUNCTION, _SPARSE = "GraphProto", "FunctionProto", "SparseTensorProto"
# onnx.proto: for each message the fields that hold others, and which those are.
_NESTED: dict[str, dict[int, str]] = {
    "ModelProto": {7: _GRAPH, 20: "TrainingInfoProto", 25: _FUNCTION},
    "TrainingInfoProto": {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: NODE, 11: ATTRIBUTE},
    _GRAPH: {1: NODE, 5: TENSOR, 11: VALUE, 12: VALUE, 13: VALUE, 15: _SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: _GRAPH, 10: TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
    VALUE: {},
}
# As deep as a protocol buffer may be, by its own libraries.
_DEEPEST = 100
# A network has fewer; what has more would only keep this reader busy.
_MOST_FIELDS = 1 << 24


class MalformedError(Exception):
    """Bytes that are no protocol-buffer message."""


def length_delimited(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The length-delimited fields of one message, others left out.

    Yields:
        `(field number, first byte, byte after the last)`.
    """
    for number, wire, value, stop in fields(buffer, start, end):
        if wire == BYTES:
            yield number, value, stop


def fields(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk one message.

    Yields:
        `(field number, wire type, value, stop)`: for a length-delimited field,
        `value` and `stop` are its first byte and the byte after its last.
    """
    position, count = start, 0
    while position < end:
        count += 1
        if count > _MAX_FIELDS:
            raise MalformedError
        key, position = varint(buffer, position, end)
        number, wire = key >> 3, key & 7
        # Other readers drop what goes beyond 32 bits, and would find another field than this one.
        if number == 0 or key >> 32:
            raise MalformedError
        if wire == VARINT:
            value, position = varint(buffer, position, end)
            yield number, wire, value, position
        elif wire == BYTES:
            length, position = varint(buffer, position, end)
            if length > end - position:
                raise MalformedError
            yield number, wire, position, position + length
            position += length
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            if size > end - position:
                raise MalformedError
            yield number, wire, position, position + size
            position += size
        else:
            raise MalformedError


def varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """A number of variable length, and the position after it."""
    value = shift = 0
    while True:
        if position >= end or shift > 63:
            raise MalformedError
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def messages(buffer: Buffer, kinds: Collection[str]) -> Iterator[tuple[str, int, int]]:
    """Every message of some kinds in an ONNX file, in no order that means anything.

    Yields:
        `(kind, first byte, byte after the last)`.
    """
    left = _MOST_FIELDS
    stack = [("ModelProto", 0, len(buffer), 1)]
    while stack:
        kind, start, end, depth = stack.pop()
        if depth > _DEEPEST:
            raise MalformedError
        if kind in kinds:
            yield kind, start, end
        nested = _NESTED[kind]
        if not nested:
            continue
        for number, wire, value, stop in fields(buffer, start, end):
            left -= 1
            if left < 0:
                raise MalformedError
            if wire == BYTES and number in nested:
                stack.append((nested[number], value, stop, depth + 1))
