"""The values of a table as those of a typed field: what TOML allows and JSON does not."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from foldcam.runtime.pipeline.config.keys import BY_PATH, REPLACED
from foldcam.runtime.system.documents import (
    MAX_INTEGER,
    KeyProblem,
    joined,
    plain_type,
    suggestion,
    typed,
)
from foldcam.runtime.system.redaction import keep_secret

_MOST_ITEMS = 10_000
_MOST_CHARACTERS = 10_000
_NAMES = {"object": "a table", "array": "an array"}


def read_value(kind: Any, value: object, key: str) -> Any:
    """A value of a table, or a whole table, as one of a type.

    Args:
        kind: a type with its range, or a dataclass of such.
        value: as TOML gives it.
        key: of the value, for messages.

    Raises:
        KeyProblem: an unknown key, a wrong type, a value out of range, a missing value.
    """
    return typed(kind, _checked(kind, value, key), key, _NAMES)


def check_names(given: dict[str, Any], known: list[str], key: str = "") -> None:
    """Refuse a table that has other keys.

    Raises:
        KeyProblem: it does; the message proposes a key that is known.
    """
    for name in given:
        if name not in known:
            raise KeyProblem(joined(key, name), f"is unknown{_proposal(name, key, known)}")


def _checked(kind: Any, value: object, key: str) -> object:
    """The value, one text as a list where a list of texts is needed."""
    kind = plain_type(kind)
    if isinstance(value, str):
        keep_secret(value)
        if "\0" in value or len(value) > _MOST_CHARACTERS:
            raise KeyProblem(key, "has a null byte" if "\0" in value else "is too long")
        return [value] if kind == tuple[str, ...] else value
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise KeyProblem(key, "is a huge integer, beyond the limit of every key")
    if isinstance(value, list):
        if len(value) > _MOST_ITEMS:
            raise KeyProblem(key, f"has {len(value)} values, more than {_MOST_ITEMS}")
        inner = get_args(kind)[0] if get_origin(kind) is tuple else None
        return [_checked(inner, each, f"{key}[{at}]") for at, each in enumerate(value)]
    if isinstance(value, dict) and is_dataclass(kind):
        check_names(value, [field.name for field in fields(kind)], key)
        hints = get_type_hints(kind)
        return {
            name: _checked(hints[name], each, joined(key, name)) for name, each in value.items()
        }
    return value


def _proposal(given: str, key: str, known: list[str]) -> str:
    plain = ".".join(part.partition("[")[0] for part in joined(key, given).split("."))
    if plain in REPLACED:
        return f" ({REPLACED[plain]})"
    near = suggestion(given, known, 0.5)
    if near:
        return near.replace("mean ", f"mean {key}." if key else "mean ")
    elsewhere = [path for path in BY_PATH if path.endswith(f".{given}")]
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else f" (known here: {', '.join(known)})"
