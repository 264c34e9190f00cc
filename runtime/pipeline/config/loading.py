"""A `RunConfig` from a table, a TOML file, or a file and flags; and written as either."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from foldcam.runtime.pipeline.config.keys import (
    FIELDS,
    KEYS,
    KINDS,
    SECTIONS,
    ConfigKey,
    check_names,
    read_value,
)
from foldcam.runtime.pipeline.config.tree import RunConfig
from foldcam.runtime.system.documents import KeyProblem
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.redaction import keep_secret, redacted_value
from foldcam.runtime.system.text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_BYTES = 1 << 20
_HEADER = re.compile(r"\s*\[(\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=")


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The table and the text of a file; what is wrong is refused with its line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FoldcamError(f"{path} has more than {_MOST_BYTES >> 20} MiB: no configuration.")
        if not path.is_file():
            raise FoldcamError(f"{path} is no regular file.")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FoldcamError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError:
        raise FoldcamError(f"{str(path)!r} is not a file name.") from None
    return parse_toml(text, str(path)), text


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table that a text of TOML holds; `where` it came from is for messages."""
    try:
        # The parser demands what files on Windows do not have.
        table: dict[str, Any] = tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise FoldcamError(f"{where} is nested too deeply.") from None
    except ValueError as error:  # integers of 5000 digits, too
        raise FoldcamError(f"{where} is not TOML: {printable(str(error))[:200]}.") from None
    return table


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, on which a key such as `source[1].every` stands; None if unsure.

    A key that is missing has the line of its table.
    """
    wanted = re.sub(r"(\[\d+\])+$", "", key) if "." in key else key
    lines = _lines(text)
    while wanted:
        if wanted in lines:
            return lines[wanted]
        if f"{wanted}[0]" in lines:
            return lines[f"{wanted}[0]"]
        wanted = wanted.rpartition(".")[0]
    return None


def _lines(text: str) -> dict[str, int]:
    if '"""' in text or "'''" in text:
        return {}  # what looks like a key may be within a string
    found: dict[str, int] = {}
    tables: Counter[str] = Counter()
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            section = _bare(header[2])
            if header[1]:
                tables[section] += 1
                section = f"{section}[{tables[section] - 1}]"
            found.setdefault(section, number)
            continue
        assigned = _KEY.match(line)
        if assigned:
            name = _bare(assigned[1])
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found


def _bare(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


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


_SOURCES = ("camera", "file", "uri")


def load_config(path: Path | str, flags: Mapping[str, Any] | None = None) -> RunConfig:
    """A TOML file, with what the flags say in place of what the file says.

    Args:
        path: the file.
        flags: nested as the file is; see `merged`.

    Raises:
        FoldcamError: not readable, not TOML, or not a configuration: the message has the key
            and, where it can be found, the line.
    """
    table, text = read_toml(Path(path))
    try:
        config_from(table)  # the file must be right by itself
    except KeyProblem as problem:
        line = line_of(text, problem.key)
        place = f"{path}, line {line}" if line else str(path)
        raise FoldcamError(f"{place}: {problem}") from None
    return config_from(merged(table, flags or {}))


def config_from(table: Mapping[str, Any]) -> RunConfig:
    """A table with the keys of the file.

    Raises:
        KeyProblem: see `read_value`; also values that exclude each other.
    """
    check_names(dict(table), list(SECTIONS))
    config = RunConfig(
        **{FIELDS[name]: read_value(KINDS[name], value, name) for name, value in table.items()}
    )
    for index, source in enumerate(config.sources):
        given = [name for name in _SOURCES if getattr(source, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none of them"
            raise KeyProblem(
                f"source[{index}]", f"needs exactly one of camera, file and uri, and has {named}"
            )
        if source.crop is not None and 0 in source.crop[2:]:
            raise KeyProblem(f"source[{index}].crop", "has no area")
    for index, box in enumerate(config.regions.boxes):
        if 0 in box[2:]:
            raise KeyProblem(f"regions.boxes[{index}]", "has no area")
    _check_regions(config)
    if config.model.build and config.model.backend not in ("auto", "tensorrt"):
        raise KeyProblem("model.build", "needs model.backend tensorrt or auto")
    if config.flow.backoff_most_seconds < config.flow.backoff_seconds:
        raise KeyProblem("flow.backoff_most_seconds", "is below flow.backoff_seconds")
    _check_events(config)
    return config


def merged(table: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The file's table with the flags' values in place of its own.

    Args:
        table: of the file.
        flags: nested in the same way. Sources that are given replace all of the file's. A table
            in place of the list `source` holds options for every source there is.

    Raises:
        KeyProblem: options of the live page, and nobody asks for it.
    """
    both: dict[str, Any] = dict(table)
    for section, values in flags.items():
        if section == "source":
            continue
        known = both.get(section)
        if section == "serve" and known is None and "port" not in values:
            raise KeyProblem(
                "serve", f"has {', '.join(values)} and is not switched on: give --serve"
            )
        both[section] = {**known, **values} if isinstance(known, dict) else values
    sources = flags.get("source", {})
    addresses = sources.get("given") or both.get("source", [])
    common = {name: value for name, value in sources.items() if name != "given"}
    if addresses:
        both["source"] = [{**each, **common} for each in addresses]
    return both


def with_secrets(config: RunConfig, environment: Mapping[str, str]) -> RunConfig:
    """The configuration with the token of the live page read from where it is kept.

    Args:
        config: may name a `token_file`, which comes before the variable.
        environment: may have `FOLDCAM_TOKEN`.

    Raises:
        FoldcamError: the file cannot be read or is empty.
    """
    if config.serve is None or config.serve.token:
        return config
    token = environment.get("FOLDCAM_TOKEN") or None
    if config.serve.token_file is not None:
        path = Path(config.serve.token_file)
        refuse_special(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise FoldcamError(f"The token file {path} cannot be read: {reason}.") from error
        token = lines[0].strip() if lines else ""
        if not token:
            raise FoldcamError(f"The token file {path} is empty: its first line is the token.")
    return replace(config, serve=replace(config.serve, token=token))


def _check_regions(config: RunConfig) -> None:
    regions = config.regions
    given = [name for name in ("boxes", "grid", "detector", "file") if getattr(regions, name)]
    if len(given) > 1:
        raise KeyProblem("regions", f"has {' and '.join(given)}: give one of them")


def _check_events(config: RunConfig) -> None:
    names = [event.name for event in config.events]
    for index, event in enumerate(config.events):
        if event.name in names[:index]:
            raise KeyProblem(f"event[{index}].name", f"is {event.name!r}, as that of another event")
    if config.output.events is not None and not config.events:
        raise KeyProblem("output.events", "needs an event to write: give a rule")
    if config.events and not (config.output.events or config.output.mqtt):
        raise KeyProblem(
            "event", "has nowhere to go: give --events (output.events) or --mqtt (output.mqtt)"
        )
