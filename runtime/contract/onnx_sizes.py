"""How large an ONNX file says that its values are, before any library allocates them.

A file of a few kilobytes may name a size of 2^31, in a tensor's shape, in an input or in a
constant by which an operator makes one. Libraries take such numbers at their word.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from foldcam.runtime.contract.protobuf import (
    ATTRIBUTE,
    BYTES,
    FIXED32,
    NODE,
    TENSOR,
    VALUE,
    VARINT,
    Buffer,
    fields,
    length_delimited,
    messages,
    varint,
)
from foldcam.runtime.system.text import printable, shorten

VARIABLE = "FOLDCAM_MOST_TENSOR_GIB"
_DEFAULT_GIB = 4.0
_ITEM_BYTES = 4
# Of a window, a stride or a padding; pictures have at most 2^14 pixels a side.
_MOST_WINDOW = 1 << 16
_INT64, _FLOAT, _INT32 = 7, 1, 6
# Constants that say how large something is to be are short.
_MOST_VALUES = 64

# Operators whose output is as large as an input's numbers multiply to: which input.
_PRODUCTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Resize": 3, "OneHot": 1}
_FACTORS = {"Resize": 2, "Upsample": 1}
_LARGEST = {"Pad": (1,), "Range": (0, 1), "CenterCropPad": (1,), "HannWindow": (0,),
            "HammingWindow": (0,), "BlackmanWindow": (0,)}  # fmt: skip
_WINDOWS = {b"pads", b"kernel_shape", b"strides", b"dilations", b"output_padding"}
_SHAPES = {b"shape", b"output_shape"}


class SizeError(Exception):
    """A size that no network needs; the message is a sentence about the file."""


@dataclass
class _Node:
    kind: str
    inputs: list[str]
    outputs: list[str]
    value: list[float] | None = None


def most_bytes() -> int:
    """What one value may have, for one image: 4 GiB, or `FOLDCAM_MOST_TENSOR_GIB`."""
    try:
        given = float(os.environ.get(VARIABLE, ""))
    except ValueError:
        given = _DEFAULT_GIB
    usable = given if math.isfinite(given) and given > 0 else _DEFAULT_GIB
    return int(usable * (1 << 30))


def too_large(what: str, size: int) -> SizeError:
    """The refusal of a value of so many bytes."""
    shown = f"{size / 2**30:,.0f} GiB" if size < 1 << 70 else "beyond all memory"
    return SizeError(
        f"{what} would have {shown} where {most_bytes() / 2**30:g} GiB are allowed: the file is "
        f"damaged, or set {VARIABLE} to more."
    )


def check_sizes(buffer: Buffer) -> None:
    """Hold every size that the file states against what one value may have."""
    constants: dict[str, list[float]] = {}
    nodes: list[_Node] = []
    for kind, start, end in messages(buffer, {TENSOR, VALUE, ATTRIBUTE, NODE}):
        if kind == TENSOR:
            name, values = _tensor(buffer, start, end)
            if values is not None:
                constants[name] = values
        elif kind == VALUE:
            _value(buffer, start, end)
        elif kind == ATTRIBUTE:
            _attribute(buffer, start, end)
        else:
            nodes.append(_node(buffer, start, end))
    for node in nodes:
        if node.kind == "Constant" and node.value is not None and node.outputs:
            constants[node.outputs[0]] = node.value
    for node in nodes:
        _check_node(node, constants)


def _check_node(node: _Node, constants: dict[str, list[float]]) -> None:
    where = f"the output of {node.kind} ({_shown(node.outputs[0] if node.outputs else '')})"

    def given(at: int) -> list[float]:
        return constants.get(node.inputs[at], []) if at < len(node.inputs) else []

    limit = most_bytes() // _ITEM_BYTES
    if node.kind in _PRODUCTS:
        product = _product(given(_PRODUCTS[node.kind]))
        if product > limit:
            raise too_large(where, product * _ITEM_BYTES)
    if node.kind in _FACTORS:
        factor = _product(given(_FACTORS[node.kind]))
        if factor > limit // 3:
            raise too_large(where, factor * _ITEM_BYTES)
    for at in _LARGEST.get(node.kind, ()):
        largest = max((abs(value) for value in given(at)), default=0)
        if largest > limit:
            raise too_large(where, int(largest) * _ITEM_BYTES)


def _node(buffer: Buffer, start: int, end: int) -> _Node:
    node = _Node("", [], [])
    for number, wire, value, stop in fields(buffer, start, end):
        if wire != BYTES:
            continue
        if number == 4:
            node.kind = _text(buffer, value, stop)
        elif number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(_text(buffer, value, stop))
        elif number == 5:
            for inner, kind, low, high in fields(buffer, value, stop):
                if inner == 5 and kind == BYTES:
                    node.value = _tensor(buffer, low, high)[1]
    return node


def _attribute(buffer: Buffer, start: int, end: int) -> None:
    name, numbers = b"", []
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1 and wire == BYTES:
            name = bytes(buffer[value : min(stop, value + 64)])
        elif number == 8:
            numbers += _integers(buffer, wire, value, stop)
    if name in _WINDOWS and any(abs(each) > _MOST_WINDOW for each in numbers):
        raise SizeError(
            f"the {name.decode()} of an operator are {_listed(numbers)}, more than {_MOST_WINDOW}: "
            "the file is damaged."
        )
    if name in _SHAPES and _product(numbers) > most_bytes() // _ITEM_BYTES:
        raise too_large(f"a value of the shape {_listed(numbers)}", _product(numbers) * _ITEM_BYTES)


def _value(buffer: Buffer, start: int, end: int) -> None:
    """A declared input, output or inner value: `ValueInfoProto`."""
    name, sizes = "", []
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1 and wire == BYTES:
            name = _text(buffer, value, stop)
        elif number == 2 and wire == BYTES:
            sizes += [
                size
                for at, to in _inner(buffer, value, stop, 1, 2, 1)
                for inner, kind, size, _ in fields(buffer, at, to)
                if inner == 1 and kind == VARINT
            ]
    dims = [_signed(size) for size in sizes]
    # A dimension of -1 is how some tools write one that is open.
    if any(size < -1 for size in dims):
        raise SizeError(f"the value {_shown(name)} has the shape {_listed(dims)}, and a size below "
                        "0 is none: the file is damaged.")  # fmt: skip
    product = _product(dims)
    if product > most_bytes() // _ITEM_BYTES:
        raise too_large(f"the value {_shown(name)}", product * _ITEM_BYTES)


def _tensor(buffer: Buffer, start: int, end: int) -> tuple[str, list[float] | None]:
    """Check a tensor; returns its name and, of a short one, its numbers."""
    name, dims, kind, held, external = "", [], 0, 0, False
    numbers: list[float] = []
    raw: bytes | None = None
    for number, wire, value, stop in fields(buffer, start, end):
        if number == 1:
            dims += _integers(buffer, wire, value, stop)
        elif number == 2 and wire == VARINT:
            kind = value
        elif number == 8 and wire == BYTES:
            name = _text(buffer, value, stop)
        elif number in (4, 5, 6, 7, 9, 10, 11):
            # Unpacked numbers and texts have a field each.
            held += stop - value if wire == BYTES and number != 6 else 1
            if number == 9 and wire == BYTES:
                raw = bytes(buffer[value : min(stop, value + 8 * _MOST_VALUES)])
            elif number in (5, 7) and len(numbers) < _MOST_VALUES:
                numbers += _integers(buffer, wire, value, min(stop, value + 10 * _MOST_VALUES))
            elif number == 4 and wire == FIXED32:
                numbers += struct.unpack("<f", buffer[stop - 4 : stop])
            elif number == 4 and wire == BYTES:
                numbers += _unpacked("f", bytes(buffer[value : min(stop, value + 256)]))
        elif number == 14 and wire == VARINT:
            external = value & 0xFFFFFFFF == 1
    if any(size < 0 for size in dims):
        raise SizeError(f"the tensor {_shown(name)} has the shape {_listed(dims)}, and a size "
                        "below 0 is none: the file is damaged.")  # fmt: skip
    count = math.prod(dims)
    # Two numbers of four bits share a byte; a weight beside the file is held against that file.
    if (external and count >= 1 << 62) or (not external and count > 2 * held):
        raise SizeError(
            f"the tensor {_shown(name)} has the shape {_listed(dims)} and {held} bytes of numbers: "
            "the file is damaged."
        )
    if external or count > _MOST_VALUES:
        return name, None
    if raw is not None:
        code = {_INT64: "q", _INT32: "i", _FLOAT: "f"}.get(kind)
        return name, None if code is None else _unpacked(code, raw)
    return name, numbers


def _unpacked(code: str, data: bytes) -> list[float]:
    size = struct.calcsize(code)
    whole = len(data) // size
    return list(struct.unpack(f"<{whole}{code}", data[: whole * size]))


def _integers(buffer: Buffer, wire: int, value: int, stop: int) -> list[int]:
    """One integer, or packed ones."""
    if wire == VARINT:
        return [_signed(value)]
    found: list[int] = []
    while wire == BYTES and value < stop:
        if len(found) >= _MOST_VALUES * 4:
            break
        number, value = varint(buffer, value, stop)
        found.append(_signed(number))
    return found


def _inner(buffer: Buffer, start: int, end: int, *path: int) -> Iterator[tuple[int, int]]:
    """The messages at the end of a path of field numbers."""
    if not path:
        yield start, end
        return
    for number, low, high in length_delimited(buffer, start, end):
        if number == path[0]:
            yield from _inner(buffer, low, high, *path[1:])


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _product(numbers: list[float] | list[int]) -> int:
    """The product of the numbers above 1; the others are open sizes, or change nothing."""
    result = 1
    for number in numbers:
        if math.isinf(number):
            return 1 << 100
        if number > 1:
            result *= int(number)
    return result


def _listed(numbers: list[int]) -> str:
    return shorten(str(numbers), 120)


def _text(buffer: Buffer, start: int, end: int) -> str:
    return bytes(buffer[start : min(end, start + 4096)]).decode("utf-8", "replace")


def _shown(name: str) -> str:
    return repr(printable(shorten(name, 80)))
