"""Does the nearest bank row have the right label? Recall of a folded model on labelled images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bootstrap import Interval, bootstrap
from export.datasets import Dataset
from runtime.errors import FoldcamError
from runtime.images import read_image
from runtime.model import FoldedModel

_BATCH = 8


@dataclass(frozen=True)
class RetrievalReport:
    """Recall of a folded model.

    Attributes:
        images: readable images whose label the bank knows.
        recall_at_1: share whose nearest row has the image's label, with its interval.
        per_label: label -> (images, share).
        unknown_labels: images left out because the bank has no row of their label.
        skipped: files that could not be read, with the reason.
    """

    images: int
    recall_at_1: Interval
    per_label: dict[str, tuple[int, float]]
    unknown_labels: int
    skipped: tuple[tuple[str, str], ...]

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "images": self.images,
            "recall_at_1": asdict(self.recall_at_1),
            "per_label": {
                label: {"images": count, "recall_at_1": share}
                for label, (count, share) in self.per_label.items()
            },
            "unknown_labels": self.unknown_labels,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
        }


def evaluate_retrieval(
    model: FoldedModel, dataset: Dataset, progress: Callable[[str, int, int], None] | None = None
) -> RetrievalReport:
    """Run the folded model over labelled images and count right labels.

    Raises:
        FoldcamError: no image can be read, or the bank knows none of the labels.
    """
    known = {run.name for run in model.contract.labels}
    samples = [sample for sample in dataset.samples if sample.label in known]
    if not samples:
        raise FoldcamError(
            f"The bank has no row of any label in {dataset.name}: is it the data set that the "
            "model was exported with?"
        )
    right: list[bool] = []
    labels: list[str] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(samples), _BATCH):
        images, wanted = [], []
        for sample in samples[start : start + _BATCH]:
            try:
                images.append(read_image(sample.path))
                wanted.append(sample.label)
            except FoldcamError as error:
                skipped.append((str(sample.path), str(error)))
        for result, label in zip(model.run_batch(images), wanted, strict=True):
            right.append(result.labels[:1] == [label])
            labels.append(label)
        if progress:
            progress("retrieval", min(start + _BATCH, len(samples)), len(samples))
    if not right:
        raise FoldcamError(f"None of the images could be read; the first: {skipped[0][1]}")
    per_label = {
        label: [r for r, actual in zip(right, labels, strict=True) if actual == label]
        for label in sorted(set(labels))
    }
    return RetrievalReport(
        images=len(right),
        recall_at_1=bootstrap([float(value) for value in right]),
        per_label={name: (len(v), sum(v) / len(v)) for name, v in per_label.items()},
        unknown_labels=len(dataset.samples) - len(samples),
        skipped=tuple(skipped),
    )


def load_folded(path: Path) -> FoldedModel:
    """The folded model on the CPU, for figures that do not depend on the device."""
    return FoldedModel.load(path, provider="cpu")
