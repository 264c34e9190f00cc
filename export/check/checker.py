"""`check_model`: the rules applied to a file, for each target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.checker

from foldcam.export.check.loading import load_view
from foldcam.export.check.model_view import ModelView
from foldcam.export.check.rule import Match, Rule, Severity
from foldcam.export.check.rules import RULES
from foldcam.export.check.sources import FOLDCAM, ONNX_IR
from foldcam.export.check.targets import Target
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.contract.tensors import check_tensors
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.text import printable

# ONNX demands an order of the nodes; TensorRT and ONNX Runtime sort them.
_UNSORTED = "topologically sorted"


@dataclass(frozen=True)
class Finding:
    """One rule met at one place.

    Attributes:
        severity: `error`, `warning` or `info`.
        rule: its id.
        node: name of the node; empty for the model as a whole.
        operator: of the node, or empty.
        sentence: what is wrong.
        remedy: how to avoid it.
        source: where the fact is published.
        verified: `parser`, `builder` (confirmed with TensorRT-RTX in foldcam's tests), or
            `documented`.
    """

    severity: Severity
    rule: str
    node: str
    operator: str
    sentence: str
    remedy: str
    source: str
    verified: str


@dataclass(frozen=True)
class TargetReport:
    """What was found for one target, errors first."""

    target: Target
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.count("error")


@dataclass(frozen=True)
class CheckReport:
    """A model against all targets asked for.

    Attributes:
        path: the file.
        opset: of ONNX's own operators.
        nodes: number of operators, those of subgraphs counted.
        folded: whether it has foldcam's metadata.
        targets: one report each.
    """

    path: Path
    opset: int
    nodes: int
    folded: bool
    targets: tuple[TargetReport, ...]

    @property
    def passed(self) -> bool:
        """Whether no target has an error."""
        return all(report.passed for report in self.targets)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model": str(self.path),
            "opset": self.opset,
            "nodes": self.nodes,
            "folded": self.folded,
            "passed": self.passed,
            "targets": {
                report.target.name: {
                    "tensorrt": ".".join(map(str, report.target.version)),
                    "flavour": report.target.flavour,
                    "oldest_opset": report.target.oldest_opset,
                    "newest_opset": report.target.newest_opset,
                    "passed": report.passed,
                    "errors": report.count("error"),
                    "warnings": report.count("warning"),
                    "infos": report.count("info"),
                    "findings": [asdict(finding) for finding in report.findings],
                }
                for report in self.targets
            },
        }


def check_model(path: Path | str, targets: Sequence[Target]) -> CheckReport:
    """Apply every rule to an ONNX file; nothing is built and no external data is read.

    Args:
        path: any ONNX file, folded or not.
        targets: from `find_targets`, at least one.

    Raises:
        FoldcamError: the file is missing, unreadable, no ONNX file, damaged or too large.
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


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _invalid(path: Path) -> list[Finding]:
    """What ONNX's own checker finds in a file: no reader has to take one that it refuses."""
    try:
        onnx.checker.check_model(str(path))
    except MemoryError:
        raise
    except Exception as error:  # its ValidationError, and what damaged messages make it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
        if _UNSORTED in reason:
            return []
        remedy = "the file is damaged, or a faulty tool wrote it: export the network again"
        return [
            Finding("error", "invalid", "", "", f"it is no valid ONNX file: {printable(reason)}",
                    remedy, ONNX_IR, "documented")
        ]  # fmt: skip
    return []


def _findings(view: ModelView, target: Target) -> list[Finding]:
    return [
        _finding(rule, match, target)
        for rule in RULES
        if rule.holds_for(target)
        for match in rule.matches(view, target)
    ]


def _finding(rule: Rule, match: Match, target: Target) -> Finding:
    values = {"target": target.title, "operator": match.operator, **match.details}
    return Finding(
        severity=rule.severity,
        rule=rule.id,
        node=match.node,
        operator=match.operator,
        sentence=printable(rule.sentence.format(**values)),
        remedy=printable(rule.remedy.format(**values)),
        source=rule.source,
        verified=rule.verified,
    )


def _broken_contract(path: Path) -> list[Finding]:
    """What the metadata of a folded model promise and its graph does not keep."""
    try:
        contract, header = read_contract(path), read_header(path)
        check_tensors(contract, header.inputs, header.outputs, str(path))
    except FoldcamError as error:
        remedy = "export or fold it again, and change nothing in the file afterwards"
        return [
            Finding("error", "contract", "", "", printable(str(error)), remedy, FOLDCAM,
                    "documented")
        ]  # fmt: skip
    return []


def _sorted(findings: list[Finding]) -> list[Finding]:
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])
