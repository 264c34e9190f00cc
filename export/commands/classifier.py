"""What `foldcam export` says of a classifier, which has no training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foldcam.runtime.system.command import print_json
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    from foldcam.export.exporting.classifier_exporter import ClassifierReport

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
    if as_json:
        print_json(
            {
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
        )
        return
    channels, height, width = contract.feature_map
    names = ", ".join(run.name for run in contract.labels[:_SHOWN])
    more = f", and {contract.bank.rows - _SHOWN} more" if contract.bank.rows > _SHOWN else ""
    print(f"{report.path}: {report.path.stat().st_size / 1e6:.1f} MB")
    print(f"  feature map  {contract.layer} [{channels} x {height} x {width}]")
    print(f"  scores       {scores_text(contract.scores)}")
    print(f"  heat         {explanation_text(contract.explanation, contract.scores)}")
    print(f"  classes      {contract.bank.rows}: {names}{more}")
    for note in report.notes:
        print(f"  note: {note}")
    print(f"Next: runtime run {report.path} --file PHOTO --save out/")
