"""A key of a configuration, described at its field: help, flag and file read it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


@dataclass(frozen=True)
class Key:
    """What is said of a field beside its type, which carries the range.

    Attributes:
        flag: on the command line; None where there is none, or one of its own making.
        example: a value for the commented file where the default is none at all.
    """

    help: str
    flag: str | None = None
    example: str | None = None


def key(
    default: Value,
    text: str,
    flag: str | None = None,
    example: str | None = None,
    secret: bool = False,
) -> Value:
    """The field of a dataclass, with a `Key` in its metadata.

    Args:
        default: its value where nothing is given; `dataclasses.MISSING` where it must be.
    """
    metadata = {"key": Key(text, flag, example)}
    return cast(Value, field(default=cast(Any, default), repr=not secret, metadata=metadata))
