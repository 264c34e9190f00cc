"""The table of rules, read from rules.toml beside this module.

A rule's keys in that file: those of `Rule` (a `source` by its names in `[sources]`, separated by
blanks, and a `remedy` that several rules have by its name in `[remedies]`), and one way to find its
places, for which `matchers` and `attention` have the functions:

- `on` names operators, separated by blanks, `"the model"` or `"other domains"` (operators that are
  not ONNX's); without it all of ONNX's own operators are looked at. `where` names the test of one
  place; `attribute` is a test in its own right: it finds a value that is not among the `allowed`.
- `types` finds where values of these types enter the graph; `constants` finds who reads constants
  of these types.
- `match` names a matcher of the whole graph.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, cast

from foldcam.export.verification.check import attention, matchers
from foldcam.export.verification.check.matchers import Matcher
from foldcam.export.verification.check.targets import Flavour, Target, Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
Verified = Literal["parser", "builder", "documented"]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: short name, also in `--json`.
        matches: finds the places in a model.
        sentence: what is wrong; `{...}` is filled in from the place that was found.
        remedy: which option of foldcam or which change avoids it, with the same braces.
        severity: `error` where TensorRT refuses the model or would compute something else,
            `warning` where it may, `info` for what is good to know. That a version is known to
            compute something else from such a graph is a warning: not every one is affected, and
            only the device can say.
        verified: `parser` or `builder` where the tests confirm it, both ways, with
            TensorRT-RTX's real ONNX parser or builder; `documented` where they cannot.
        source: the addresses where the fact is published, separated by commas.
        since, before: the versions of TensorRT it holds for, from `since` to below `before`.
        flavour: the one TensorRT it holds for; None for both.
    """

    id: str
    matches: Matcher
    sentence: str
    remedy: str
    source: str
    severity: Severity = "error"
    verified: Verified = "parser"
    since: Version = (0, 0)
    before: Version = (99, 0)
    flavour: Flavour | None = None

    def holds_for(self, target: Target) -> bool:
        """Whether the rule is about this target."""
        return self.flavour in (None, target.flavour) and self.since <= target.version < self.before


def _matcher(row: dict[str, Any]) -> Matcher:
    """Take the keys of a row that say how its places are found."""
    if "match" in row:
        name = row.pop("match")
        return cast("Matcher", getattr(matchers, name, None) or getattr(attention, name))
    for general in ("types", "constants"):
        if general in row:
            return cast("Matcher", getattr(matchers, general)(*row.pop(general).split()))
    if "attribute" in row:
        where = matchers.attribute(**row.pop("attribute"))
    else:
        where = getattr(matchers, row.pop("where", "always"))
    return matchers.places(row.pop("on", ""), where)


def _rule(row: dict[str, Any]) -> Rule:
    source = ", ".join(SOURCES[name] for name in row.pop("source", "operators").split())
    row["remedy"] = _TABLE["remedies"].get(row["remedy"], row["remedy"])
    for key in {"since", "before"} & set(row):
        row[key] = tuple(row[key])
    return Rule(matches=_matcher(row), source=source, **row)


_TABLE = tomllib.loads(files(__package__).joinpath("rules.toml").read_text(encoding="utf-8"))
SOURCES: dict[str, str] = _TABLE["sources"]
RULES = tuple(_rule(row) for row in _TABLE["rules"])
