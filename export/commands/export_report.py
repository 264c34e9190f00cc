"""What `foldcam export` says of a model that it folded, with training images or as a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.export.commands.options import data_document
from foldcam.runtime.system.command import print_report
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank
    from foldcam.export.datasets import Dataset
    from foldcam.export.exporting.classifier_exporter import ClassifierReport
    from foldcam.export.exporting.exporter import ExportReport
    from foldcam.export.exporting.threshold import ThresholdReport
    from foldcam.runtime.contract.schema import Contract


def distinct_rows(bank: Bank, contract: Contract) -> int:
    """Rows of grad-weights that differ; a bank that is an input has one for each label."""
    if contract.bank_input is not None:
        return len(bank.labels)
    return contract.bank.grad_weight_rows


def report_export(
    report: ExportReport,
    dataset: Dataset,
    bank: Path | None,
    chosen: ThresholdReport | None,
    *,
    as_json: bool,
) -> None:
    """Print what an export did.

    Args:
        as_json: whether as one JSON document.
    """
    from foldcam.export.exporting.exporter import skipped_lines
    from foldcam.runtime.contract.bank.live_bank import bank_path
    from foldcam.runtime.contract.explanation import explanation_text
    from foldcam.runtime.system.text import number_text

    contract = report.contract
    summary = {
        "model": str(report.path),
        "bytes": report.path.stat().st_size,
        "layer": contract.layer,
        "feature_map": list(contract.feature_map),
        "embedding_size": contract.bank.embedding_size,
        "normalized": contract.normalized,
        "precision": contract.precision,
        "head_linear": report.bank.head.linear,
        "explanation": None if contract.explanation is None else vars(contract.explanation),
        "optional_outputs": list(contract.optional_outputs),
        "rows": report.bank.bank.rows,
        "grad_weight_rows": distinct_rows(report.bank.bank, contract),
        "labels": len({run.name for run in report.bank.bank.labels}),
        "bank_input": str(bank_path(report.path)) if contract.bank_input is not None else None,
        "outcome": None if contract.outcome is None else vars(contract.outcome),
        "objective": contract.bank.objective,
        "compression": contract.bank.compression,
        "storage": None if contract.bank.storage is None else vars(contract.bank.storage),
        "fidelity": None if report.fidelity is None else asdict(report.fidelity),
        "fallback_rows": report.bank.fallback_rows,
        "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.bank.skipped],
        "unknown_rule": None if chosen is None else chosen.rule.document(),
        "notes": [*report.notes, *(() if chosen is None else chosen.notes)],
        **data_document(dataset),
        "bank_file": None if bank is None else str(bank),
        "gallery_file": None if report.gallery is None else str(report.gallery.path),
    }
    lines = [
        *_head(report.path, contract),
        f"  embedding    {contract.bank.embedding_size} numbers",
    ]
    if contract.explanation is not None:
        lines.append(f"  heat         {explanation_text(contract.explanation)}")
    what = f"of {summary['labels']} labels"
    if contract.outcome is not None:
        low, high = number_text(contract.outcome.low), number_text(contract.outcome.high)
        what = f"with values from {low} to {high}"
    lines.append(
        f"  bank         {summary['rows']} images {what}, "
        f"{summary['grad_weight_rows']} distinct rows of grad-weights"
    )
    if contract.bank_input is not None:
        lines.append(f"  bank input   {summary['bank_input']}, which has to lie beside the model")
    if bank is not None:
        lines.append(f"  bank file    {bank}: {bank.stat().st_size / 1e6:.1f} MB")
    if report.gallery is not None:
        file = report.gallery.path
        lines.append(f"  gallery      {file}: {file.stat().st_size / 1e6:.1f} MB")
    if contract.bank.storage is not None:
        lines.append(f"  storage      {contract.bank.storage.sentence()}")
    if report.fidelity is not None:
        lines.append(f"  against all rows in float32: {report.fidelity.sentence()}")
    if chosen is not None:
        lines.append(f"  rule         {chosen.rule.sentence()}")
    lines += [f"  note: {note}" for note in summary["notes"]]
    lines += [f"  {line}" for line in skipped_lines(report.bank)]
    lines.append(f"Next: runtime run {report.path} --file PHOTO --save out/")
    print_report(summary, "\n".join(lines), as_json)


_SHOWN = 5


def refuse_without_images(flags: Sequence[str]) -> None:
    """Refuse flags that are about training images where there are none."""
    if flags:
        raise FoldcamError(
            f"{flags[0]} is about training images, and no --images were given: give them, or "
            f"leave {' and '.join(flags)} out to fold a classifier."
        )


def report_classifier(report: ClassifierReport, *, as_json: bool) -> None:
    """Print what the export of a classifier did."""
    from foldcam.runtime.contract.explanation import explanation_text, scores_text

    contract = report.contract
    assert contract.explanation is not None
    assert contract.scores is not None
    document = {
        "model": str(report.path),
        "bytes": report.path.stat().st_size,
        "layer": contract.layer,
        "feature_map": list(contract.feature_map),
        "classes": contract.bank.rows,
        "scores": contract.scores,
        "precision": contract.precision,
        "explanation": vars(contract.explanation),
        "optional_outputs": list(contract.optional_outputs),
        "notes": report.notes,
    }
    names = ", ".join(run.name for run in contract.labels[:_SHOWN])
    more = f", and {contract.bank.rows - _SHOWN} more" if contract.bank.rows > _SHOWN else ""
    lines = [
        *_head(report.path, contract),
        f"  scores       {scores_text(contract.scores)}",
        f"  heat         {explanation_text(contract.explanation, contract.scores)}",
        f"  classes      {contract.bank.rows}: {names}{more}",
        *(f"  note: {note}" for note in report.notes),
        f"Next: runtime run {report.path} --file PHOTO --save out/",
    ]
    print_report(document, "\n".join(lines), as_json)


def _head(path: Path, contract: Contract) -> list[str]:
    channels, height, width = contract.feature_map
    return [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB",
        f"  feature map  {contract.layer} [{channels} x {height} x {width}]",
    ]
