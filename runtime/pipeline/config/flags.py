"""The flags of `runtime run`, made from the keys of its configuration, and read back into it."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, Union, cast

import typer

from foldcam.runtime.pipeline.config.keys import KEYS, ConfigKey, read_value
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.system.documents import KeyProblem, plain_type
from foldcam.runtime.system.text import shorten

_PANELS = {
    "model": "Model", "source": "Sources", "flow": "Flow", "regions": "Regions",
    "style": "Drawing", "output": "Outputs", "recording": "Recording", "serve": "Live page",
    "log": "Log",
}  # fmt: skip
_METAVARS = {
    "source.crop": "X,Y,W,H", "regions.boxes": "X,Y,W,H", "regions.grid": "COLUMNSxROWS",
    "regions.detector": "MODULE:FUNCTION", "output.sinks": "MODULE:FACTORY",
    "output.mqtt": "URI",
}  # fmt: skip
_ADDRESS = re.compile(r"(?:(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*):)?(\d{1,5})")


def parameters() -> list[inspect.Parameter]:
    """One parameter per flag, for a typer command; None (or an empty list) means not given."""
    return [
        inspect.Parameter(
            _name(key),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _annotation(key),
                typer.Option(
                    key.flag,
                    help=key.help,
                    show_default=_shown_default(key),
                    rich_help_panel=_PANELS[key.section],
                    metavar=_METAVARS.get(key.path),
                ),
            ],
        )
        for key in KEYS
        if key.flag is not None
    ]


def table_of(
    given: Mapping[str, Any],
    *,
    model: str | None = None,
    cameras: list[int] | None = None,
    file: str | None = None,
    sources: list[str] | None = None,
    events: list[str] | None = None,
    serve: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """What the flags say, as `merged` takes it; a value that cannot be is wrong usage.

    Args:
        given: values of the parameters of `parameters`.
        events: `--event`, see `event_table`.
        serve: `[HOST:]PORT`.
    """
    table: dict[str, Any] = {}
    for key in KEYS:
        value = given.get(_name(key)) if key.flag else None
        if value is None or (isinstance(value, (list, tuple)) and not value):
            continue
        flag = str(key.flag).partition("/")[0]
        plain = _plain(key, value, flag)
        try:
            read_value(key.kind, plain, key.path)
        except KeyProblem as problem:
            raise typer.BadParameter(f"{flag} {problem.reason}.") from None
        table.setdefault(key.section, {})[key.name] = plain
    if model is not None:
        table.setdefault("model", {})["path"] = model
    addresses: list[dict[str, Any]] = [{"camera": number} for number in cameras or []]
    addresses += [{"file": file}] if file is not None else []
    addresses += [{"uri": uri} for uri in sources or []]
    if addresses:
        table.setdefault("source", {})["given"] = addresses
    if events:
        table["event"] = [
            event_table(text, f"event-{number}") for number, text in enumerate(events, start=1)
        ]
    if serve is not None:
        table.setdefault("serve", {}).update(_address(serve))
    if quiet:
        table.setdefault("log", {})["status"] = False
    return table


def event_table(text: str, name: str) -> dict[str, Any]:
    """The table of one `--event`, as TOML would give it.

    Args:
        text: `KEY=VALUE,KEY=VALUE` with the keys of `EventRule`. What has no `=` is one more
            value of the key before it: a label with `=` needs its key. A label with a comma stands
            in double quotes.
        name: the rule's name if the text has none.
    """
    shown = f"--event {shorten(text, 80)!r}"
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split = ",", True
    lexer.commenters, lexer.quotes = "", '"'
    table: dict[str, Any] = {"name": name}
    given: dict[str, list[Any]] = {}
    key = ""
    try:
        for part in lexer:
            before, equals, value = part.partition("=")
            key = before.strip() if equals else key
            if not key:
                raise typer.BadParameter(
                    f"{shown} needs the form KEY=VALUE, such as "
                    "name=unknown,unknown=true,for_seconds=2,cooldown_seconds=60."
                )
            given.setdefault(key, []).append(_scalar(key, (value if equals else part).strip()))
    except ValueError:
        raise typer.BadParameter(f"{shown} ends within a quote or behind a backslash.") from None
    table |= {key: values if len(values) > 1 else values[0] for key, values in given.items()}
    try:
        read_value(EventRule, table, "event")
    except KeyProblem as problem:
        message = re.sub(r"(^|you mean )event\.", r"\1", str(problem))
        raise typer.BadParameter(f"{shown}: {message}") from None
    return table


def _scalar(key: str, text: str) -> str | int | float | bool:
    """A number where the key needs one and the text is one; true and false likewise."""
    if key in ("name", "label", "not_label"):
        return text
    if key == "unknown" and text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _plain(key: ConfigKey, value: Any, flag: str) -> Any:
    """A flag's value as TOML would give it."""
    if choices := key.choices:
        # Some versions of typer give the member, others its text.
        text = str(value.value if isinstance(value, Enum) else value)
        return next((choice for choice in choices if str(choice) == text), text)
    if key.path == "source.crop":
        return _integers(value, ",", 4, flag)
    if key.path == "regions.boxes":
        return [_integers(text, ",", 4, flag) for text in value]
    if isinstance(value, tuple):
        return list(value)
    if key.path == "regions.grid":
        return _integers(value.lower(), "x", 2, flag)
    return value


def _integers(text: str, separator: str, count: int, flag: str) -> list[int]:
    parts = [part.strip() for part in text.split(separator)]
    if len(parts) != count or not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
        shown = {4: "x,y,width,height in pixels", 2: "columns and rows, such as 3x2"}[count]
        raise typer.BadParameter(f"{flag} is {text!r} where {shown} are needed.")
    return [int(part) for part in parts]


def _address(text: str) -> dict[str, Any]:
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise typer.BadParameter(f"--serve is {text!r} where [HOST:]PORT is needed.")
    host = {"host": found[1].strip("[]")} if found[1] else {}
    return {**host, "port": int(found[2])}


def _name(key: ConfigKey) -> str:
    return key.path.replace(".", "_")


def _shown_default(key: ConfigKey) -> str | bool:
    default = key.default
    if default is None or default == ():
        return False
    if isinstance(default, bool):
        yes, _, no = str(key.flag).partition("/")
        return (yes if default else no).removeprefix("--") if no else False
    return str(default)


def _annotation(key: ConfigKey) -> Any:
    kind: Any = plain_type(key.kind)
    if choices := key.choices:
        # A type of its own, so that the help and the parser know the choices.
        members = [(f"choice_{choice}", str(choice)) for choice in choices]
        kind = cast(Any, Enum)(f"{_name(key)}_choice", members, type=str)
    elif key.path == "regions.boxes" or kind == tuple[str, ...]:
        kind = list[str]
    elif key.path in _METAVARS:
        kind = str
    return Union[kind, None]  # noqa: UP007  (a type made at run time)
