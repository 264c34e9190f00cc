"""Inputs made wrong, from a seed: the same seed, kind and number give the same bytes."""

from __future__ import annotations

import copy
import json
import random
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
