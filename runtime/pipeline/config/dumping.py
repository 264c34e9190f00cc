"""A `RunConfig` as JSON values without secrets, and the commented file of `config init`."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from textwrap import wrap
from typing import Any

from foldcam.runtime.pipeline.config.keys import KEYS, SECTIONS, ConfigKey
from foldcam.runtime.system.redaction import keep_secret, redacted_value

_HEAD = """\
# A run of foldcam. What is commented out has the value shown, or none.
# Check it with `runtime config check FILE`, use it with `runtime run --config FILE`;
# flags on the command line come before it.
"""
_LISTS = ("source", "event")


def public_document(value: Any) -> Any:
    """A configuration as JSON values; tokens, and credentials in addresses, are `***`."""
    if is_dataclass(value):
        return {
            field.name: "***"
            if field.name == "token" and getattr(value, field.name)
            else public_document(getattr(value, field.name))
            for field in fields(value)
        }
    if isinstance(value, tuple):
        return [public_document(inner) for inner in value]
    if isinstance(value, str):
        keep_secret(value)
    return redacted_value(value)


def commented_file() -> str:
    """A TOML file that names every key, with its meaning and its default, all commented out."""
    lines = [_HEAD.rstrip()]
    for section, meaning in SECTIONS.items():
        # A table that is switched on by being there is commented out as well.
        off = "# " if section in (*_LISTS, "serve") else ""
        header = f"[[{section}]]" if section in _LISTS else f"[{section}]"
        lines += ["", f"# {meaning}", f"{off}{header}"]
        for key in KEYS:
            if key.section == section:
                lines += [f"# {line}" for line in wrap(_meaning(key), 96)]
                lines.append(f"#{'' if off == '' else ' '}{key.name} = {key.shown}")
    return "\n".join(lines) + "\n"


def _meaning(key: ConfigKey) -> str:
    flag = f" ({key.flag.partition('/')[0]})" if key.flag else ""
    choices = ", ".join(json.dumps(choice) for choice in key.choices)
    return f"{key.help}{flag}" + (f" One of {choices}." if choices else "")
