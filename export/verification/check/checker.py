"""`check_model`: the rules applied to a file, for each target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.checker

from foldcam.export.verification.check.report import CheckReport, Finding, TargetReport
from foldcam.export.verification.check.rules import RULES, SEVERITIES, SOURCES
from foldcam.export.verification.check.targets import Target
from foldcam.export.verification.check.view import ModelView, load_view
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.contract.tensors import check_tensors
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

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
