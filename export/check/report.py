"""The report of `foldcam check` as lines to read."""

from __future__ import annotations

from foldcam.export.check.checker import CheckReport, Finding
from foldcam.export.check.rule import SEVERITIES, Severity

# Of one rule and one sentence of advice; a quantized network has the same mistake 60 times.
_MOST_PLACES = 5


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
            _counted(one.count(severity), severity)
            for severity in ("error", "warning")
            if one.count(severity)
        )
        verdict = "passed" if one.passed else "FAILED"
        lines.append(
            f"{one.target.name:{wide}}  {one.target.title:14}  {verdict}  {counts}".rstrip()
        )
    return "\n".join(lines)


def _grouped(report: CheckReport, severity: Severity) -> list[tuple[list[Finding], list[str]]]:
    """Findings of one rule with one remedy together, with the targets that have them all."""
    places: dict[tuple[str, str, tuple[str, ...]], list[Finding]] = {}
    holders: dict[Finding, list[str]] = {}
    for one in report.targets:
        for finding in one.findings:
            if finding.severity == severity:
                holders.setdefault(finding, []).append(one.target.name)
    for finding, targets in holders.items():
        key = (finding.rule, finding.remedy, tuple(dict.fromkeys(targets)))
        places.setdefault(key, []).append(finding)
    return [(found, list(key[2])) for key, found in places.items()]


def _finding_lines(places: list[Finding]) -> list[str]:
    first = places[0]
    lines = [f"{first.severity:7} {first.rule}"]
    for finding in places[:_MOST_PLACES]:
        where = f"{finding.operator} {finding.node}: " if finding.node else ""
        lines.append(f"  where   {where}{finding.sentence}")
    if len(places) > _MOST_PLACES:
        lines.append(f"  where   ... and {len(places) - _MOST_PLACES} more (--json lists them all)")
    confirmed = "" if first.verified == "documented" else " (confirmed with TensorRT-RTX)"
    return [*lines, f"  mend    {first.remedy}", f"  source  {first.source}{confirmed}"]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
