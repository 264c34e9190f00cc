"""`check_model`: the table of rules, from rules.toml beside this module, applied to a file.

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
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

import onnx
import onnx.checker

from foldcam.export.verification.check import attention, matchers
from foldcam.export.verification.check.matchers import Matcher
from foldcam.export.verification.check.report import (
    SEVERITIES,
    CheckReport,
    Finding,
    Severity,
    TargetReport,
)
from foldcam.export.verification.check.targets import Flavour, Target, Version
from foldcam.export.verification.check.view import ModelView, load_view
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.contract.tensors import check_tensors
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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


# ONNX demands an order of the nodes; TensorRT and ONNX Runtime sort them.
_UNSORTED = "topologically sorted"


def check_model(path: Path | str, targets: Sequence[Target]) -> CheckReport:
    """Apply every rule to an ONNX file; nothing is built and no external data is read.

    Args:
        path: any ONNX file, folded or not.
        targets: what `find_targets` returns, at least one.

    Returns:
        One list of findings per target, errors first.

    Raises:
        FoldcamError: the file is missing, unreadable, no ONNX file, damaged or too large.

    Example:
        >>> from foldcam import check_model, find_targets
        >>> report = check_model("model.onnx", find_targets(["jetpack-6.2", "desktop-11"]))
        >>> report.passed, [each.target.title for each in report.targets]
        (True, ['TensorRT 10.3', 'TensorRT 11.0'])
    """
    path = Path(path)
    view = load_view(path)
    folded = any(entry.key == METADATA_KEY for entry in view.model.metadata_props)
    broken = _broken_contract(path) if folded else []
    found = [[*broken, *_findings(view, target)] for target in targets]
    # Its one sentence says less than a rule's, so it is asked where no rule has found any.
    invalid = [] if all(map(_has_error, found)) else _invalid(path)
    reports = tuple(
        TargetReport(target, tuple(_sorted(each if _has_error(each) else each + invalid)))
        for target, each in zip(targets, found, strict=True)
    )
    return CheckReport(path, view.opset, len(view.nodes), folded, reports)


def _findings(view: ModelView, target: Target) -> list[Finding]:
    return [
        Finding(
            severity=rule.severity,
            rule=rule.id,
            node=node.name,
            operator=node.op,
            sentence=_filled(rule.sentence, view=view, target=target, node=node, **details),
            remedy=_filled(rule.remedy, view=view, target=target, node=node, **details),
            source=rule.source,
            verified=rule.verified,
        )
        for rule in RULES
        if rule.holds_for(target)
        for node, details in rule.matches(view, target)
    ]


def _filled(text: str, **values: object) -> str:
    return printable(text.format(**values))


def _invalid(path: Path) -> list[Finding]:
    """What ONNX's own checker finds in a file: no reader has to take one that it refuses."""
    try:
        onnx.checker.check_model(str(path))
    except MemoryError:
        raise
    except Exception as error:  # its ValidationError, and what damaged messages make it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
        if _UNSORTED not in reason:
            return _error(
                "invalid",
                f"it is no valid ONNX file: {reason}",
                "the file is damaged, or a faulty tool wrote it: export the network again",
                "onnx_ir",
            )
    return []


def _broken_contract(path: Path) -> list[Finding]:
    """What the metadata of a folded model promise and its graph does not keep."""
    try:
        contract, header = read_contract(path), read_header(path)
        check_tensors(contract, header.inputs, header.outputs, str(path))
    except FoldcamError as error:
        remedy = "export or fold it again, and change nothing in the file afterwards"
        return _error("contract", str(error), remedy, "foldcam")
    return []


def _error(rule: str, sentence: str, remedy: str, source: str) -> list[Finding]:
    text = printable(sentence)
    return [Finding("error", rule, "", "", text, remedy, SOURCES[source], "documented")]


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _sorted(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
