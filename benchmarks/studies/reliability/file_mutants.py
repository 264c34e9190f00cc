"""Safetensors and ONNX files made wrong where it matters: in their fields, from a seed.

Bytes at random seldom get past a parser; a field with another type, size or text does.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from typing import Any

from foldcam.benchmarks.studies.reliability.mutants import mutated_bytes, mutated_json

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
