"""A flag that takes one value is given once: the last of several would count, silently."""

from __future__ import annotations

from typing import Any

import typer


def refuse_repeated(command: Any) -> None:
    """Make a program, and every command in it, refuse such a flag as wrong usage.

    Done on the parser, because behind it nobody knows that there was another value.

    Args:
        command: as `typer.main.get_command` gives it; changed in place. Any, because typer
            brings its own copy of click from some version on.
    """
    for inner in getattr(command, "commands", {}).values():
        refuse_repeated(inner)
    make_parser = command.make_parser

    def checked_parser(context: Any) -> Any:
        parser = make_parser(context)
        given: dict[str, Any] = {}
        options = [*parser._long_opt.values(), *parser._short_opt.values()]
        for option in {id(option): option for option in options}.values():
            _check(option, given)
        return parser

    command.make_parser = checked_parser


def _check(option: Any, given: dict[str, Any]) -> None:
    """Let an option of the parser look at what was given before it."""
    if option.action not in ("store", "store_const"):
        return  # those that add up or count
    process = option.process
    flag = option.obj.opts[0]

    def once(value: Any, state: Any) -> None:
        new = value if option.action == "store" else option.const
        if option.dest in given and (option.action == "store" or given[option.dest] != new):
            raise typer.BadParameter(_sentence(flag, option.action, given[option.dest], new))
        given[option.dest] = new
        process(value, state)

    option.process = once


def _sentence(flag: str, action: str, first: Any, second: Any) -> str:
    if action == "store":
        return f"{flag} is given twice ({first!r} and {second!r}) and takes one value: give one."
    return f"{flag} and its opposite are both given: give one of them."
