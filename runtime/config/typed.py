"""A table of plain values into a frozen dataclass, by the dataclass's own types."""

from __future__ import annotations

import difflib
import math
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import (
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from foldcam.runtime.config.keys import BY_PATH, REPLACED
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.events.rule import RuleProblem
from foldcam.runtime.system.redaction import keep_secret, redacted
from foldcam.runtime.system.text import printable, shorten

Tree = TypeVar("Tree")
_MOST_ITEMS = 10_000
_NAMES = {
    dict: "a table", list: "an array", str: "a string", bool: "true or false",
    int: "an integer", float: "a number",
}  # fmt: skip


class KeyProblem(FoldcamError):  # noqa: N818  (as RuleProblem)
    """A value that cannot be.

    Attributes:
        key: in full, such as `source[1].every`.
        reason: what is wrong with it, as a clause.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} {reason}.")
        self.key, self.reason = key, reason


def read_table(
    cls: type[Tree], table: object, key: str, rename: dict[str, str] | None = None
) -> Tree:
    """A dataclass from a table that holds some of its fields.

    Args:
        cls: a dataclass whose fields are plain types, `Literal`s, options, tuples and
            dataclasses.
        table: as TOML gives it.
        key: of the table, for messages; empty at the top.
        rename: names in the table for fields that are called otherwise.

    Raises:
        KeyProblem: an unknown key, a wrong type, a value out of range, a missing value.
    """
    if not isinstance(table, dict):
        fail(key, f"is {kind_of(table)} where a table is needed")
    own = fields(cast(Any, cls))
    names = {field.name: (rename or {}).get(field.name, field.name) for field in own}
    known = {shown: name for name, shown in names.items()}
    for given in table:
        if given not in known:
            fail(joined(key, given), f"is unknown{_suggestion(given, key, list(known))}")
    hints, values = _hints(cls), dict[str, Any]()
    for field in own:
        shown = names[field.name]
        if shown in table:
            values[field.name] = read_value(hints[field.name], table[shown], joined(key, shown))
        elif field.default is MISSING and field.default_factory is MISSING:
            fail(joined(key, shown), "is missing")
    try:
        return cls(**values)
    except RuleProblem as problem:
        fail(joined(key, problem.key), problem.reason)


def read_value(kind: Any, value: object, key: str) -> Any:
    """One value of a type; see `read_table`.

    Raises:
        KeyProblem: it is not of the type, or out of range.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (inner,) = [each for each in get_args(kind) if each is not type(None)]
        return read_value(inner, value, key)
    if origin is Literal:
        return _choice(get_args(kind), value, key)
    if origin is tuple:
        return _tuple(get_args(kind), value, key)
    if is_dataclass(kind):
        return read_table(cast(type[Any], kind), value, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else math.inf
    if type(value) is not kind:
        fail(key, f"is {kind_of(value)} where {_NAMES[kind]} is needed")
    if isinstance(value, str):
        keep_secret(value)
    if isinstance(value, str) and ("\0" in value or len(value) > 10_000):
        fail(key, "has a null byte" if "\0" in value else "is too long")
    if kind in (int, float):
        _check_range(cast(float, value), key)
    return value


def element_of(tree: type[Any], section: str) -> type[Any]:
    """The dataclass of one of the tree's tables, or of one element of its lists."""
    kind = _hints(tree)[section if section in _hints(tree) else f"{section}s"]
    while get_args(kind):
        kind = get_args(kind)[0]
    return cast(type[Any], kind)


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, optional or not; empty for any other type."""
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def fail(key: str, reason: str) -> NoReturn:
    """Raise the complaint about a key."""
    raise KeyProblem(printable(shorten(key, 120)), printable(redacted(reason)))


def joined(key: str, name: str) -> str:
    """The name of a key within a table."""
    name = shorten(name, 80)
    return f"{key}.{name}" if key else name


def kind_of(value: object) -> str:
    """What a value is, in TOML's words."""
    return _NAMES.get(type(value), "a date or time")


def _choice(choices: tuple[Any, ...], value: object, key: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    shown = ", ".join(str(choice) for choice in choices)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        given = "a huge integer"
    else:
        plain = isinstance(value, (str, int, float))
        given = shorten(repr(value), 60) if plain else kind_of(value)
    near = difflib.get_close_matches(given[:60], [str(choice) for choice in choices], 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    fail(key, f"is {given} where one of {shown} is needed{hint}")


def _tuple(kinds: tuple[Any, ...], value: object, key: str) -> tuple[Any, ...]:
    if kinds == (str, ...) and isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        fail(key, f"is {kind_of(value)} where an array is needed")
    if kinds[-1] is Ellipsis:
        if len(value) > _MOST_ITEMS:
            fail(key, f"has {len(value)} values, more than {_MOST_ITEMS}")
        kinds = (kinds[0],) * len(value)
    if len(value) != len(kinds):
        fail(key, f"has {len(value)} values where {len(kinds)} are needed")
    return tuple(
        read_value(kind, inner, f"{key}[{index}]")
        for index, (kind, inner) in enumerate(zip(kinds, value, strict=True))
    )


def _check_range(value: float, key: str) -> None:
    # Integers come from a file at any length, and `math` takes few of those.
    if isinstance(value, float) and not math.isfinite(value):
        fail(key, "is not finite")
    limits = BY_PATH.get(_plain(key))
    low, high = (None, None) if limits is None else (limits.low, limits.high)
    if low is not None and value < low:
        wanted = "above 0" if 0 < low < 1e-6 else f"at least {low:g}"
        fail(key, f"is {_number(value)} where {wanted} is needed")
    if high is not None and value > high:
        fail(key, f"is {_number(value)} where at most {high:g} is allowed")
    if isinstance(value, int) and abs(value) >= 1 << 53:
        fail(key, "is too large")


def _number(value: float) -> str:
    return "a huge integer" if isinstance(value, int) and abs(value) > 1 << 53 else f"{value:g}"


def _plain(key: str) -> str:
    """`source[1].crop[2]` -> `source.crop`."""
    return ".".join(part.partition("[")[0] for part in key.split("."))


def _suggestion(given: str, key: str, known: list[str]) -> str:
    if replaced := REPLACED.get(_plain(joined(key, given))):
        return f" ({replaced})"
    near = difflib.get_close_matches(given[:80], known, 1, 0.5)
    if near:
        return f" (did you mean {joined(key, near[0])}?)"
    elsewhere = [path for path in BY_PATH if path.endswith(f".{given}")]
    if elsewhere:
        return f" (did you mean {elsewhere[0]}?)"
    return f" (known here: {', '.join(known)})"


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)
