"""Inputs made wrong, from a seed: the same seed, kind and number give the same bytes.

Safetensors and ONNX files are made wrong in their fields: bytes at random seldom get past a
parser; a field with another type, size or text does.
"""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

_INTEGERS = (
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0",
    b"\0\0\0\x80", b"\x01\0\0\0", b"\0\0\xff\xff", b"\xff\xff", b"\0",
)  # fmt: skip
_WORDS = (
    "nan", "inf", "-1", "0", "1e999", "-0.0", "99999999999999999999999", "true", "null", "''",
    '"', "'", "[", "]", "{", "}", "=", ",", "\n", "\0", "\ufeff", "\u202e", "\ud7ff", "../../x",
    "1979-05-27T07:32:00Z", '"""', "[[source]]", "[[event]]", "0x", "1_000", "and", "not", "%00",
    "://", "@", "#", "?", "x" * 5000, "[" * 3000, "\\u0000", "\\ud800",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**53, 2**64, 10**30, 0.5, -1e308, 1e308, "", "x" * 10_000, "\0",
    [], [[]], {}, [None] * 50, {"x": 1}, ["\u202e"], "nan", [1, 2, 3, 4],
)  # fmt: skip


def mutated_bytes(generator: random.Random, originals: Sequence[bytes]) -> bytes:
    """One of some files with one to six things wrong."""
    data = generator.choice(originals)
    for _ in range(generator.choice((1, 1, 2, 3, 6))):
        data = _one_wrong(generator, data, originals)
    return data


def mutated_text(generator: random.Random, originals: Sequence[str]) -> bytes:
    """One of some texts with words put in, taken out or exchanged, or wrong as bytes."""
    text = generator.choice(originals)
    if generator.random() < 0.3:
        return mutated_bytes(generator, [text.encode()])
    for _ in range(generator.choice((1, 1, 2, 4))):
        at, to = _range(generator, len(text), 12)
        way = generator.randrange(4)
        if way == 0:
            text = text[:at] + generator.choice(_WORDS) + text[at:]
        elif way == 1:
            text = text[:at] + generator.choice(_WORDS) + text[to:]
        elif way == 2:
            text = text[:at] + text[to:]
        else:
            lines = text.splitlines(keepends=True)
            generator.shuffle(lines)
            text = "".join(lines)
    return text.encode("utf-8", "replace")


def mutated_json(generator: random.Random, originals: Sequence[str]) -> bytes:
    """One of some documents with values exchanged where they stand, or wrong as a text."""
    if generator.random() < 0.4:
        return mutated_text(generator, originals)
    document = copy.deepcopy(json.loads(generator.choice(originals)))
    for _ in range(generator.choice((1, 1, 2, 5))):
        _exchange_one(generator, document)
    return json.dumps(document).encode("utf-8", "replace")


def _exchange_one(generator: random.Random, document: Any) -> None:
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    if isinstance(document, (dict, list)):
        walk(document)
    if not places:
        return
    holder, key = generator.choice(places)
    way = generator.random()
    if way < 0.15:
        del holder[key]
    elif way < 0.25 and isinstance(holder, dict):
        holder[generator.choice(_WORDS)] = holder.pop(key)
    elif way < 0.4 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * generator.choice((-1, 0, 2, 1000, 10**9)) + 1
    else:
        holder[key] = copy.deepcopy(generator.choice(_VALUES))


def _one_wrong(generator: random.Random, data: bytes, originals: Sequence[bytes]) -> bytes:
    if not data:
        return generator.randbytes(8)
    # Headers decide most: half of all that is wrong is wrong near the beginning.
    reach = min(len(data), 256) if generator.random() < 0.5 else len(data)
    at, to = _range(generator, reach, 64)
    way = generator.randrange(9)
    if way == 0:
        flipped = data[at] ^ (1 << generator.randrange(8)) if at < len(data) else 0
        return data[:at] + bytes([flipped]) + data[at + 1 :]
    if way == 1:
        return data[:at] + generator.randbytes(to - at) + data[to:]
    if way == 2:
        return data[: generator.randrange(len(data))]
    if way == 3:
        return data[:at] + data[to:]
    if way == 4:
        return data[:at] + generator.randbytes(generator.randint(1, 40)) + data[at:]
    if way == 5:
        return data[:to] + data[at:to] * generator.randint(1, 8) + data[to:]
    if way == 6:
        number = generator.choice(_INTEGERS)
        return data[:at] + number + data[at + len(number) :]
    if way == 7:
        return data[:at] + bytes(to - at) + data[to:]
    other = generator.choice(originals)
    return data[:at] + other[generator.randrange(len(other)) :]


def _range(generator: random.Random, length: int, longest: int) -> tuple[int, int]:
    at = generator.randrange(length) if length else 0
    return at, min(length, at + generator.randint(1, longest))


_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I8", "U8", "BOOL", "X")
_TEXTS = (
    "", "none", "rank:abc", "rank:0", "rank:-1", "rank:99999999999999999999", "rank:1", "rank:",
    "prototypes:x", "prototypes:0", "\ud800", "a\udcffb", "\0", "\u202eabc", "x" * 5000, "log",
    "positive", "all",
)  # fmt: skip
_SIZES = (-1, 0, 1, 2, 3, 7, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1)


def mutated_safetensors(generator: random.Random, originals: Sequence[bytes]) -> bytes:
    """A safetensors file with another header, other metadata, or other bytes."""
    data = generator.choice(originals)
    way = generator.random()
    if way < 0.15:
        return mutated_bytes(generator, originals)
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    for _ in range(generator.choice((1, 1, 2, 3))):
        if generator.random() < 0.5:
            body = _other_tensor(generator, header, body)
        else:
            _other_metadata(generator, header)
    text = json.dumps(header).encode()
    if generator.random() < 0.05:
        text = mutated_json(generator, [json.dumps(header)])
    length = len(text) if generator.random() < 0.95 else generator.choice((0, 10**9, 2**63, 7))
    return struct.pack("<Q", length) + text + body


def mutated_onnx(generator: random.Random, originals: Sequence[bytes]) -> bytes:
    """An ONNX file with another field in one of its messages, or other bytes."""
    import onnx

    if generator.random() < 0.35:
        return mutated_bytes(generator, originals)
    model = onnx.ModelProto()
    model.ParseFromString(generator.choice(originals))
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        _other_field(generator, model)
    data: bytes = model.SerializeToString()
    if generator.random() < 0.15:
        # A name that is no UTF-8 cannot be set, only written.
        name = generator.choice([node.name or node.output[0] for node in model.graph.node] or ["x"])
        raw = name.encode("utf-8", "replace")
        data = data.replace(raw, b"\xff" * len(raw), generator.choice((1, -1))) if raw else data
    return data


def _other_tensor(generator: random.Random, header: dict[str, Any], body: bytes) -> bytes:
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return body
    name = generator.choice(names)
    entry = header[name]
    way = generator.randrange(7)
    if way == 0:
        entry["dtype"] = generator.choice(_DTYPES)
    elif way == 1:
        shape = list(entry["shape"]) or [1]
        shape[generator.randrange(len(shape))] = generator.choice(_SIZES)
        entry["shape"] = shape
    elif way == 2:  # the same bytes in another shape
        shape = list(entry["shape"])
        entry["shape"] = generator.choice(
            (shape[::-1], [*shape, 1], [1, *shape], [int(_product(shape))], [])
        )
    elif way == 3:
        del header[name]
    elif way == 4:
        header[generator.choice(names)] = dict(entry)
    elif way == 5:  # numbers that are none, in the bytes of one tensor
        start, end = entry["data_offsets"]
        wrong = generator.choice((b"\xff", b"\x7f", b"\x00", b"\x80")) * (end - start)
        at = generator.randrange(max(1, end - start))
        body = body[: start + at] + wrong[: end - start - at] + body[end:]
    else:  # a narrower or wider type with bytes that fit it
        _retyped(generator, entry)
    return body


def _retyped(generator: random.Random, entry: dict[str, Any]) -> None:
    start, end = entry["data_offsets"]
    dtype, width = generator.choice(
        (("F64", 8), ("I64", 8), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("U8", 1), ("BOOL", 1))
    )
    entry["dtype"] = dtype
    if entry["shape"]:
        rest = _product(entry["shape"][:-1]) or 1
        entry["shape"] = [*entry["shape"][:-1], (end - start) // width // rest]


def _other_metadata(generator: random.Random, header: dict[str, Any]) -> None:
    metadata = header.setdefault("__metadata__", {})
    if not isinstance(metadata, dict) or not metadata:
        return
    key = generator.choice(sorted(metadata))
    if not isinstance(metadata[key], str):
        return
    try:
        document = json.loads(metadata[key])
    except ValueError:
        return
    if generator.random() < 0.4 and isinstance(document, dict) and document:
        texts = [name for name in document if isinstance(document[name], str)] or list(document)
        document[generator.choice(texts)] = generator.choice(_TEXTS)
        metadata[key] = json.dumps(document)
    else:
        metadata[key] = mutated_json(generator, [metadata[key]]).decode("utf-8", "replace")


def _other_field(generator: random.Random, model: Any) -> None:
    """Change one field of one message, wherever it is in the tree."""
    messages = [model]

    def walk(message: Any) -> None:
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                inner = [value] if hasattr(value, "ListFields") else value
                for each in inner:
                    messages.append(each)
                    walk(each)

    walk(model)
    message = generator.choice(messages)
    set_fields = message.ListFields()
    if not set_fields:
        return
    field, value = generator.choice(set_fields)
    single = isinstance(value, (str, bytes, int, float)) or hasattr(value, "ListFields")
    if generator.random() < 0.2:
        message.ClearField(field.name)
        return
    if not single and field.type == field.TYPE_MESSAGE:
        way = generator.randrange(3)
        if way == 0:
            del value[generator.randrange(len(value))]
        elif way == 1:
            value.add().CopyFrom(generator.choice(list(value)))
        else:
            one = generator.choice(list(value))
            one.CopyFrom(generator.choice(list(value)))
        return
    new = _other_value(generator, field)
    if new is None:
        return
    try:
        if single:
            setattr(message, field.name, new)
        else:
            value[generator.randrange(len(value))] = new
    except (ValueError, TypeError):
        return


def _other_value(generator: random.Random, field: Any) -> Any:
    if field.type == field.TYPE_STRING:
        return generator.choice(("", "x", "image", "Conv", "Reshape", "com.x", "\0", "é" * 50))
    if field.type == field.TYPE_BYTES:
        return generator.randbytes(generator.choice((0, 1, 4, 8, 64)))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return generator.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if field.type == field.TYPE_MESSAGE:
        return None
    return generator.choice((*_SIZES, -(2**31), -(2**63), 5, 9, 16, 17, 23))


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
