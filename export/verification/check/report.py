"""What `foldcam check` found: for Python, for `--json` and as lines to read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foldcam.export.verification.check.targets import Target

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

# Places that are listed for one rule and one advice: a quantized network has the same mistake
# 60 times.
_MOST_PLACES = 5


@dataclass(frozen=True)
class Finding:
    """One rule met at one place.

    Attributes:
        severity: `error`, `warning` or `info`.
        rule: the rule's id.
        node: name of the node; empty for the model as a whole.
        operator: the node's operator, or empty.
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
        """The number of findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.count("error")

    def document(self) -> dict[str, Any]:
        """The target's part of `--json`."""
        return {
            "tensorrt": self.target.number,
            "flavour": self.target.flavour,
            "oldest_opset": self.target.oldest_opset,
            "newest_opset": self.target.newest_opset,
            "passed": self.passed,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class CheckReport:
    """A model against all targets asked for.

    Attributes:
        opset: the version of ONNX's own operators.
        nodes: number of operators, those of subgraphs included.
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
        """The document of `--json`."""
        return {
            "model": str(self.path),
            "opset": self.opset,
            "nodes": self.nodes,
            "folded": self.folded,
            "passed": self.passed,
            "targets": {report.target.name: report.document() for report in self.targets},
        }


def report_text(report: CheckReport) -> str:
    """Each finding once with the targets it holds for, then a verdict per target."""
    kind = "folded model" if report.folded else "ONNX model"
    lines = [f"{report.path}: {kind}, opset {report.opset}, {report.nodes} operators"]
    for severity in SEVERITIES:
        for places, targets in _grouped(report, severity):
            lines += ["", *_finding_lines(places)]
            if len(report.targets) > 1:
                lines.append(f"  for     {', '.join(targets)}")
    lines.append("")
    wide = max(len(one.target.name) for one in report.targets)
    for one in report.targets:
        counts = ", ".join(
            f"{number} {severity}{'' if number == 1 else 's'}"
            for severity in SEVERITIES[:2]
            if (number := one.count(severity))
        )
        verdict = "passed" if one.passed else "FAILED"
        lines.append(
            f"{one.target.name:{wide}}  {one.target.title:14}  {verdict}  {counts}".rstrip()
        )
    return "\n".join(lines)


def _grouped(
    report: CheckReport, severity: Severity
) -> list[tuple[list[Finding], tuple[str, ...]]]:
    """Findings of one rule with one remedy together, with the targets that have them all."""
    holders: dict[Finding, dict[str, None]] = {}
    for one in report.targets:
        for finding in one.findings:
            if finding.severity == severity:
                holders.setdefault(finding, {})[one.target.name] = None
    groups: dict[tuple[str, str, tuple[str, ...]], list[Finding]] = {}
    for finding, targets in holders.items():
        groups.setdefault((finding.rule, finding.remedy, tuple(targets)), []).append(finding)
    return [(found, targets) for (_, _, targets), found in groups.items()]


def _finding_lines(places: list[Finding]) -> list[str]:
    first = places[0]
    lines = [f"{first.severity:7} {first.rule}"]
    for finding in places[:_MOST_PLACES]:
        where = f"{finding.operator} {finding.node}: " if finding.node else ""
        lines.append(f"  where   {where}{finding.sentence}")
    if len(places) > _MOST_PLACES:
        lines.append(f"  where   ... and {len(places) - _MOST_PLACES} more (--json lists them all)")
    confirmed = "" if first.verified == "documented" else " (confirmed with TensorRT-RTX)"
    return [*lines, f"  fix     {first.remedy}", f"  source  {first.source}{confirmed}"]
