"""Typed reading of an untrusted JSON document; every complaint names the key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

Choice = TypeVar("Choice", bound=str)
MAX_INTEGER = (1 << 53) - 1
_MAX_TEXTS = 1000


class Fields:
    """One object of the document.

    Args:
        value: what JSON parsing returned.
        where: what the object is, for the messages.

    Raises:
        FoldcamError: from every method, when the key is missing or its value is
            of the wrong type or out of range; the message names the key.
    """

    def __init__(self, value: object, where: str) -> None:
        self._where = where
        if not isinstance(value, dict):
            raise FoldcamError(f"{where} is {_kind(value)} where an object is needed.")
        self._values: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise the complaint about `key`."""
        raise FoldcamError(f"{self._where}: {_shown(key)} {reason}.")

    def section(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self._get(key), f"{self._where}: {key}")

    def optional_section(self, key: str) -> Fields | None:
        """A nested object, or None where the key is missing."""
        return self.section(key) if key in self._values else None

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            self.fail(key, f"is {_kind(value)} where a string is needed")
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            self.fail(key, f"is {_kind(value)} where true or false is needed")
        return value

    def integer(self, key: str, *, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer within [low, high]."""
        return self._integer(key, self._get(key), low, high)

    def integers(self, key: str, count: int, *, low: int, high: int = MAX_INTEGER) -> list[int]:
        """A list of `count` integers within [low, high]."""
        return [self._integer(key, value, low, high) for value in self._list(key, count)]

    def number(self, key: str) -> float:
        """A finite number."""
        return self._number(key, self._get(key))

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of `count` finite numbers."""
        return [self._number(key, value) for value in self._list(key, count)]

    def choice(self, key: str, choices: Sequence[Choice]) -> Choice:
        """One of the given strings."""
        value = self.text(key)
        for candidate in choices:
            if value == candidate:
                return candidate
        self.fail(key, f"is {value[:80]!r} where one of {', '.join(choices)} is needed")

    def optional_choice(self, key: str, choices: Sequence[Choice], default: Choice) -> Choice:
        """One of the given strings; `default` where the key is missing."""
        return self.choice(key, choices) if key in self._values else default

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        section = self.section(key)
        if len(section._values) > _MAX_TEXTS:
            self.fail(key, f"has {len(section._values)} entries, more than {_MAX_TEXTS}")
        return {name: section.text(name) for name in section._values}

    def names(self, most: int) -> list[str]:
        """The keys, at most `most`."""
        if len(self._values) > most:
            raise FoldcamError(f"{self._where} has {len(self._values)} entries, more than {most}.")
        return list(self._values)

    def runs(self, key: str, most: int = MAX_INTEGER) -> list[tuple[str, int]]:
        """A list of at most `most` pairs `[string, positive integer]`."""
        values = self._list(key)
        if len(values) > most:
            self.fail(key, f"has {len(values)} entries, more than {most}")
        result: list[tuple[str, int]] = []
        for value in values:
            if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
                self.fail(key, "holds something other than pairs of a name and a count")
            result.append((value[0], self._integer(key, value[1], 1, MAX_INTEGER)))
        return result

    def sections(self, key: str, most: int) -> list[Fields]:
        """A list of at most `most` objects."""
        where = f"{self._where}: {key}"
        return [Fields(value, f"{where}[{at}]") for at, value in enumerate(self._short(key, most))]

    def strings(self, key: str, most: int) -> tuple[str, ...]:
        """A list of at most `most` strings."""
        values = self._short(key, most)
        if not all(isinstance(value, str) for value in values):
            self.fail(key, "holds something other than strings")
        return tuple(values)

    def integer_lists(self, key: str, most: int, count: int) -> list[list[int]]:
        """A list of at most `most` lists of `count` integers from 0 on."""
        values = self._short(key, most)
        if not all(isinstance(value, list) and len(value) == count for value in values):
            self.fail(key, f"holds something other than lists of {count} integers")
        return [[self._integer(key, value, 0, MAX_INTEGER) for value in inner] for inner in values]

    def number_lists(self, key: str, most: int, count: int) -> list[list[float]]:
        """A list of at most `most` lists of `count` finite numbers."""
        values = self._short(key, most)
        if not all(isinstance(value, list) and len(value) == count for value in values):
            self.fail(key, f"holds something other than lists of {count} numbers")
        return [[self._number(key, value) for value in inner] for inner in values]

    def shape(self, key: str, most: int) -> tuple[int | str, ...]:
        """A list of at most `most` sizes, each a string where it is dynamic."""
        return tuple(
            value if isinstance(value, str) else self._integer(key, value, 0, MAX_INTEGER)
            for value in self._short(key, most)
        )

    def _short(self, key: str, most: int) -> list[Any]:
        values = self._list(key)
        if len(values) > most:
            self.fail(key, f"has {len(values)} entries where at most {most} are allowed")
        return values

    def _get(self, key: str) -> object:
        if key not in self._values:
            self.fail(key, "is missing")
        value: object = self._values[key]
        return value

    def _list(self, key: str, count: int | None = None) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            self.fail(key, f"is {_kind(value)} where a list is needed")
        if count is not None and len(value) != count:
            self.fail(key, f"has {len(value)} values where {count} are needed")
        return value

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(key, f"holds {_kind(value)} where a number is needed")
        number = float(value) if abs(value) < 1e300 else math.inf
        if not math.isfinite(number):
            self.fail(key, "holds a number that is not finite")
        return number

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(key, f"holds {_kind(value)} where an integer is needed")
        if not low <= value <= high:
            shown = value if abs(value) <= MAX_INTEGER else "a huge integer"
            self.fail(key, f"is {shown}, outside {low} to {high}")
        return value


def _shown(key: str) -> str:
    # A hostile key may be a megabyte long.
    return printable(shorten(key, 80))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
