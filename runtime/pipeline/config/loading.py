"""From a table, a file, or a file and flags to a `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldcam.runtime.pipeline.config.keys import FIELDS, KINDS, SECTIONS
from foldcam.runtime.pipeline.config.toml_file import line_of, read_toml
from foldcam.runtime.pipeline.config.tree import RunConfig
from foldcam.runtime.pipeline.config.typed import check_names, read_value
from foldcam.runtime.system.documents import KeyProblem
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

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
        KeyProblem: see `runtime.config.typed.read_value`; also values that exclude each other.
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
