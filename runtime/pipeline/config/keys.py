"""Every key of a run, gathered from the fields of `RunConfig`, and values read as its types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from foldcam.runtime.pipeline.config.tree import RunConfig
from foldcam.runtime.system.documents import (
    MAX_INTEGER,
    KeyProblem,
    joined,
    plain_type,
    suggestion,
    typed,
)
from foldcam.runtime.system.key import Key
from foldcam.runtime.system.redaction import keep_secret

SECTIONS = {
    "model": "The model, and the library and processor that run it.",
    "source": "A source of frames. Repeat the table for several sources at once.",
    "flow": "How frames are queued, what they vote, and what happens when something fails.",
    "regions": "The parts of a frame that the network gets. By default it gets the whole frame.",
    "style": "How results are drawn into a frame.",
    "output": "The outputs, any number of them at once.",
    "recording": "How the files of a long run are kept in bounds.",
    "event": "A rule for events: all conditions given must hold. Repeat the table for more rules.",
    "serve": "The live page. The table switches it on.",
    "log": "The messages on standard error.",
}
FIELDS = dict(zip(SECTIONS, get_type_hints(RunConfig), strict=True))
"""The field of `RunConfig` for each table, which is named for one element of a list."""
KINDS = dict(zip(SECTIONS, get_type_hints(RunConfig, include_extras=True).values(), strict=True))
"""The type of each table."""


@dataclass(frozen=True)
class ConfigKey(Key):
    """One value.

    Attributes:
        path: in the file, such as `output.jsonl`; keys of `[[source]]` and `[[event]]` begin
            with `source.` and `event.`.
        kind: its type, with its range.
        default: None where there is none.
    """

    path: str = ""
    kind: Any = None
    default: Any = None

    @property
    def section(self) -> str:
        """The part before the dot."""
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        """The part after the dot."""
        return self.path.partition(".")[2]

    @property
    def shown(self) -> str:
        """A value as TOML: the default, or an example where there is none."""
        return self.example or json.dumps(self.default)

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a `Literal`, optional or not; empty for any other type."""
        kind = plain_type(self.kind)
        return get_args(kind) if str(kind).startswith("typing.Literal") else ()


def _gathered() -> Iterator[ConfigKey]:
    for section, table in KINDS.items():
        kind: Any = plain_type(table)
        kind = (*get_args(kind), kind)[0]
        hints, own = get_type_hints(kind, include_extras=True), vars(kind)["__annotations__"]
        # A source's address comes before how it is read.
        for field in sorted(fields(kind), key=lambda field: field.name not in own):
            default = None if field.default is MISSING else field.default
            about, path = field.metadata["key"], f"{section}.{field.name}"
            yield ConfigKey(**vars(about), path=path, kind=hints[field.name], default=default)


KEYS = tuple(_gathered())
BY_PATH = {key.path: key for key in KEYS}
# What replaced keys of earlier versions, as the hint of the message that refuses them.
REPLACED = {
    "serve.thumbnails": "the live page shows the matched pictures of the model's gallery; see "
    "docs/live.md",
    "event.when": "conditions are keys of their own, such as unknown = true or "
    'label = "owl"; see docs/sinks.md',
}


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
    """Refuse a table that has other keys with a `KeyProblem`, which proposes one that is known."""
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
