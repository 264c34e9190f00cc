"""What `foldcam export` says of a model that was folded with training images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.export.commands.options import data_document
from foldcam.runtime.system.command import print_json

if TYPE_CHECKING:
    from foldcam.export.banks.bank import Bank
    from foldcam.export.datasets import Dataset
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
    if as_json:
        print_json(summary)
        return
    channels_count, height, width = contract.feature_map
    print(f"{report.path}: {report.path.stat().st_size / 1e6:.1f} MB")
    print(f"  feature map  {contract.layer} [{channels_count} x {height} x {width}]")
    print(f"  embedding    {contract.bank.embedding_size} numbers")
    if contract.explanation is not None:
        print(f"  heat         {explanation_text(contract.explanation)}")
    what = f"of {summary['labels']} labels"
    if contract.outcome is not None:
        low, high = number_text(contract.outcome.low), number_text(contract.outcome.high)
        what = f"with values from {low} to {high}"
    print(
        f"  bank         {summary['rows']} images {what}, "
        f"{summary['grad_weight_rows']} distinct rows of grad-weights"
    )
    if contract.bank_input is not None:
        print(f"  bank input   {summary['bank_input']}, which has to lie beside the model")
    if bank is not None:
        print(f"  bank file    {bank}: {bank.stat().st_size / 1e6:.1f} MB")
    if report.gallery is not None:
        file = report.gallery.path
        print(f"  gallery      {file}: {file.stat().st_size / 1e6:.1f} MB")
    if contract.bank.storage is not None:
        print(f"  storage      {contract.bank.storage.sentence()}")
    if report.fidelity is not None:
        print(f"  against all rows in float32: {report.fidelity.sentence()}")
    if chosen is not None:
        print(f"  rule         {chosen.rule.sentence()}")
    for note in summary["notes"]:
        print(f"  note: {note}")
    for line in skipped_lines(report.bank):
        print(f"  {line}")
    print(f"Next: runtime run {report.path} --file PHOTO --save out/")
