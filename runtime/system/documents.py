"""Documents that somebody else wrote, read as typed values; every complaint names its key."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

Kind = TypeVar("Kind")
MAX_INTEGER = (1 << 53) - 1
"""Above it a number of JSON is not the same integer for every reader."""
Natural = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
# A range of its own, because it is what refuses NaN and infinity.
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Share = Annotated[float, Meta(ge=0, le=1)]

_NAMES = {
    "object": "an object", "array": "a list", "str": "a string", "bool": "true or false",
    "int": "an integer", "float": "a number", "null": "null",
}  # fmt: skip
_LIMITS = {">=": "at least ", "<=": "at most ", ">": "more than ", "<": "less than "}
_LENGTH = r"Expected `(\w+)` of (at \w+ |)length (<= |>= |)(\d+)(?:, got \d+)?"
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


class KeyProblem(FoldcamError, ValueError):  # noqa: N818  (its parts go into other messages)
    """A value that cannot be.

    A typed value that checks itself raises it from `__post_init__`; reading a document that holds
    the value puts the path before the key.

    Attributes:
        key: in full, such as `source[1].every`; empty for the whole.
    """

    def __init__(self, key: str, reason: str, message: str | None = None) -> None:
        from foldcam.runtime.system.redaction import redacted

        self.key, self.reason = printable(shorten(key, 120)), printable(redacted(reason))
        super().__init__(message or f"{self.key or 'It'} {self.reason}.")


class Versioned(msgspec.Struct, frozen=True):
    """What is read of a document before the rest: whether this foldcam knows its form."""

    schema_version: Natural


def read_document(
    kind: type[Kind], document: object, where: str, whole: Collection[str] = ()
) -> Kind:
    """A document as a typed value; keys that the type does not have are ignored.

    Args:
        kind: a dataclass whose types carry their ranges as `msgspec.Meta`.
        whole: sections that must have every key, also where their type in Python has a default.
    """
    try:
        result: Kind = typed(kind, document)
        for path in whole:
            section, read = cast(Any, document), cast(Any, result)
            for name in path.split("."):
                section = section.get(name) if isinstance(section, dict) else None
                read = getattr(read, name, None)
            for field in fields(read) if section is not None else ():
                if field.name not in section:
                    raise KeyProblem(f"{path}.{field.name}", "is missing")
        return result
    except KeyProblem as problem:
        place = f"{where}: {problem.key}" if problem.key else where
        raise FoldcamError(f"{place} {problem.reason}.") from None


def typed(kind: Any, value: object, key: str = "", names: dict[str, str] | None = None) -> Any:
    """A plain value as one of a type; see `read_document`.

    A default that is taken stays the class's attribute: it is not in `vars` of the result.

    Args:
        names: what types are called where that is not what they are called in JSON.

    Raises:
        KeyProblem: see `read_document`.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError) as error:
        message, path, cause = str(error), "", error.__cause__
        # Of what a message cannot hold comes another error, or one without text.
        if not isinstance(error, msgspec.ValidationError) or not message:
            typed(kind, _cleaned(value), key, names)  # says where, unless it is in an unknown key
            raise KeyProblem(key, "has a key with half a surrogate pair") from None
    if found := re.fullmatch(r"(?s)(.*) - at `\$(.*)`", message):
        message, path = found[1], found[2]
    parts = [key] if key else []
    for name, index in _STEP.findall(path):
        kind, value, part = _step(kind, value, name, index)
        parts.append(part)
    path = "".join(parts).removeprefix(".")
    if isinstance(cause, KeyProblem):
        raise KeyProblem(joined(path, cause.key), cause.reason) from None
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", message):
        raise KeyProblem(joined(path, missing[1]), "is missing") from None
    raise KeyProblem(path, _reason(message, kind, value, _NAMES | (names or {}))) from None


@contextmanager
def within(place: str) -> Iterator[None]:
    """Put a path before the key of every `KeyProblem` inside.

    Raises:
        KeyProblem: with the longer key.
    """
    try:
        yield
    except KeyProblem as problem:
        raise KeyProblem(joined(place, problem.key), problem.reason) from None


def joined(key: str, name: str) -> str:
    """The name of a key within a table."""
    name = shorten(name, 80)
    return f"{key}.{name}" if key and name else key or name


def plain_type(kind: Any) -> Any:
    """A type without its ranges, and without None where it is optional."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    others = [each for each in get_args(kind) if each is not type(None)]
    return plain_type(others[0]) if len(others) < len(get_args(kind)) == 2 else kind


def suggestion(given: str, known: list[str], least: float = 0.6) -> str:
    """The nearest of the names that are known, as a question; empty if none is near."""
    import difflib

    near = difflib.get_close_matches(given[:80], known, 1, least)
    return f" (did you mean {near[0]}?)" if near else ""


def _cleaned(value: Any) -> Any:
    """The value without what a message cannot hold: lone surrogates and endless integers."""
    if isinstance(value, dict):
        return {printable(name): _cleaned(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return MAX_INTEGER + 1 if value > 0 else -MAX_INTEGER - 1
    return printable(value) if isinstance(value, str) else value


def _step(kind: Any, value: Any, name: str, index: str) -> tuple[Any, Any, str]:
    """The type and the value one step further on a path, and the step in words."""
    kind = plain_type(kind)
    if name:
        return get_type_hints(kind, include_extras=True)[name], value[name], f".{name}"
    inner = get_args(kind) or tuple(get_type_hints(kind, include_extras=True).values())
    if index == "...":
        name = next(name for name, each in value.items() if not _fits(inner[1], each))
        return inner[1], value[name], f".{shorten(name, 80)}"
    alike = len(inner) == 1 or inner[-1] is Ellipsis
    return inner[0 if alike else int(index)], value[int(index)], f"[{index}]"


def _fits(kind: Any, value: object) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        return False
    return True


def _reason(message: str, kind: Any, value: Any, names: dict[str, str]) -> str:
    """What msgspec says of a value, in the words of those who write such documents."""
    kind, wrong = plain_type(kind), re.fullmatch(r"Expected `(.+)`, got `(\w+)`", message)
    given = names.get(wrong[2], "a date or time") if wrong else _shown(value)
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        hint = suggestion(str(value), choices) if isinstance(value, str) else ""
        return f"is {given} where one of {', '.join(choices)} is needed{hint}"
    if wrong:
        wanted = [names[name] for name in wrong[1].split(" | ") if name != "null"]
        return f"is {given} where {' or '.join(wanted)} is needed"
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    if found := re.fullmatch(_LENGTH, message):
        what = {"array": "values", "object": "entries"}.get(found[1], "characters")
        limit = found[2] or _LIMITS.get(found[3].strip(), "")
        verb = "is" if found[4] == "1" else "are"
        end = "allowed" if "most" in limit else "needed"
        return f"has {len(value)} {what} where {limit}{found[4]} {verb} {end}"
    if found := re.fullmatch(r"Expected `\w+` ([<>]=?) (\S+)", message):
        limit = _LIMITS[found[1]] + found[2].removesuffix(".0")
        return f"is {given} where {limit} is {'allowed' if '<' in found[1] else 'needed'}"
    if found := re.fullmatch(r"(?s)Expected `str` matching regex '\^?(.*?)(?:\\\\Z)?'", message):
        return f"is {given} where text of the form {found[1]} is needed"
    return "is too large" if "out of range" in message else message


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "a huge integer"
    return f"{value:g}" if isinstance(value, float) else shorten(repr(value), 60)
