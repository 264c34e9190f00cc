"""Recall counts what the folded model says, on images whose label the bank knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foldcam.benchmarks.retrieval import evaluate_retrieval
from foldcam.export.bank import Bank
from foldcam.export.banks.steps import hash_rows
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.files import write_image


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


def _bank(hashes: list[str] | None) -> Bank:
    """Four rows: two black, two white; the first of each is nearly the second."""
    embeddings = np.asarray([[0.02, 1], [0.2, 1], [1, 0.02], [1, 0.2]], np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Bank(
        unit,
        np.ones((1, 2), np.float32),
        np.zeros(4, np.int32),
        (LabelRun("black", 2), LabelRun("white", 2)),
        "all-triplets",
        image_hashes=None if hashes is None else hash_rows(hashes),
    )


class _Rows:
    """Stands in for a folded model over a bank: a picture's mean colour is its embedding."""

    def __init__(self, bank: Bank, contract: Any) -> None:
        self.bank, self.contract = bank, contract

    def run_batch(self, images: list[np.ndarray[Any, Any]]) -> list[Any]:
        results = []
        for image in images:
            embedding = image.reshape(-1, 3).mean(axis=0)[:2].astype(np.float32)
            nearest = (self.bank.embeddings @ embedding).argmax()
            results.append(
                SimpleNamespace(labels=[self.bank.row_labels()[nearest]], embedding=embedding)
            )
        return results


def _coloured(folder: Path, name: str, colour: tuple[int, int], label: str) -> Sample:
    path = folder / f"{name}.png"
    write_image(path, np.full((8, 8, 3), (*colour, 0), np.uint8))
    return Sample(path, label)


@pytest.mark.parametrize("known", [True, False])
def test_images_of_the_bank_never_find_themselves(tmp_path: Path, model: Any, known: bool) -> None:
    # The second one lies among the rows of the other label, and is a row itself.
    own = _coloured(tmp_path, "own", (4, 200), "black")
    odd = _coloured(tmp_path, "odd", (200, 4), "black")
    new = _coloured(tmp_path, "new", (100, 30), "white")
    bank = _bank(None)
    odd_row = np.asarray([[200, 4]], np.float32) / np.hypot(200, 4)
    hashes = [read_picture(own).sha256, "00" * 32, read_picture(odd).sha256, "11" * 32, "22" * 32]
    bank = replace(
        bank,
        embeddings=np.concatenate([bank.embeddings[:2], odd_row, bank.embeddings[2:]]).astype("f4"),
        grad_index=np.zeros(5, np.int32),
        labels=(LabelRun("black", 3), LabelRun("white", 2)),
        image_hashes=hash_rows(hashes) if known else None,
    )
    folded: Any = _Rows(bank, model.contract)
    dataset = Dataset("some", "test", (own, odd, new))
    assert evaluate_retrieval(folded, dataset).recall_at_1.mean == 1
    report = evaluate_retrieval(folded, dataset, bank=bank)
    assert report.own_images == 2
    assert report.recall_at_1.mean == pytest.approx(2 / 3)
    assert report.notes[0].startswith("2 of the 3 images are in the bank")
    assert report.document()["own_images"] == 2


def test_a_data_set_that_the_bank_was_built_from_is_said_first(tmp_path: Path, model: Any) -> None:
    dataset = Dataset("bank", "train", (_sample(tmp_path, "w", 250, "white"),))
    (note,) = evaluate_retrieval(model, dataset).notes
    assert "The bank was built from bank, split train, too" in note
    assert evaluate_retrieval(model, replace(dataset, split="test")).notes == ()


def test_an_answer_that_is_not_finite_is_listed(tmp_path: Path, model: Any) -> None:
    class _Broken(_Brightness):
        def run_batch(self, images: list[np.ndarray[Any, Any]]) -> list[Any]:
            results = super().run_batch(images)
            results[0].embedding[0] = np.nan
            return results

    samples = tuple(_sample(tmp_path, f"w{n}", 250, "white") for n in range(2))
    report = evaluate_retrieval(_Broken(model.contract), Dataset("some", "test", samples))  # type: ignore[arg-type]
    assert report.images == 1
    assert report.skipped == ((str(samples[0].path), report.skipped[0][1]),)
    assert "not finite" in report.skipped[0][1]
