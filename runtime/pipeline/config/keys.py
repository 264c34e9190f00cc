"""Every key of a run, gathered from the fields of `runtime.config.tree`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_type_hints

from foldcam.runtime.pipeline.config.tree import RunConfig
from foldcam.runtime.system.documents import plain_type
from foldcam.runtime.system.key import Key

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
