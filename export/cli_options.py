"""What the workstation's commands share in reading their flags."""

from __future__ import annotations

from typing import TypeVar

import typer

Choice = TypeVar("Choice", bound=str)


def choice(flag: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    """`value`, if it is one of `choices`; wrong usage otherwise."""
    for candidate in choices:
        if value == candidate:
            return candidate
    raise typer.BadParameter(f"{flag} {value!r} is not one of {', '.join(choices)}.")
