"""Recall counts what the folded model says, on images whose label the bank knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.retrieval import evaluate_retrieval
from export.datasets import Dataset, Sample
from runtime.errors import FoldcamError
from runtime.images import write_image


@dataclass
class _Brightness:
    """Stands in for a folded model: calls an image by its brightness."""

    contract: Any

    def run_batch(self, images: list[np.ndarray[Any, Any]]) -> list[Any]:
        return [
            SimpleNamespace(
                labels=["white" if image.mean() > 127 else "black"],
                embedding=np.asarray([image.mean(), 255 - image.mean()], np.float32),
            )
            for image in images
        ]


@pytest.fixture
def model() -> Any:
    runs = (SimpleNamespace(name="black"), SimpleNamespace(name="white"))
    origin = SimpleNamespace(data="bank", split="train")
    bank = SimpleNamespace(storage=None)
    return _Brightness(SimpleNamespace(labels=runs, origin=origin, bank=bank))


def _sample(folder: Path, name: str, value: int, label: str) -> Sample:
    path = folder / f"{name}.png"
    write_image(path, np.full((8, 8, 3), value, np.uint8))
    return Sample(path, label)


def test_recall_is_the_share_of_right_labels_over_readable_images_of_known_labels(
    tmp_path: Path, model: Any
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    samples = (
        *(_sample(tmp_path, f"w{i}", 250, "white") for i in range(9)),
        _sample(tmp_path, "b0", 5, "black"),
        _sample(tmp_path, "b1", 240, "black"),
        _sample(tmp_path, "x", 5, "purple"),
        Sample(broken, "black"),
    )
    report = evaluate_retrieval(model, Dataset("some", "test", samples))
    assert report.images == 11
    assert report.recall_at_1.mean == pytest.approx(10 / 11)
    assert report.per_label == {"black": (2, 0.5), "white": (9, 1.0)}
    assert report.unknown_labels == 1
    assert [path for path, _ in report.skipped] == [str(broken)]


def test_a_data_set_of_other_labels_is_refused(tmp_path: Path, model: Any) -> None:
    samples = (_sample(tmp_path, "x", 5, "purple"),)
    with pytest.raises(FoldcamError, match="no row of any label"):
        evaluate_retrieval(model, Dataset("other", "test", samples))
