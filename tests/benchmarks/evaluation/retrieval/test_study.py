"""Retrieval counts what the bank's rows say, on images whose label the bank knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foldcam.benchmarks.evaluation.retrieval.report import report_document, text_report
from foldcam.benchmarks.evaluation.retrieval.study import evaluate_retrieval
from foldcam.export.banks.bank import Bank
from foldcam.export.banks.steps import hash_rows
from foldcam.export.datasets import Dataset, Sample
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.images.files import write_image
from foldcam.runtime.system.errors import FoldcamError


class _Colours:
    """Stands in for a folded model: a picture's mean red and green are its embedding."""

    def __init__(self, storage: Any = None, neighbors: tuple[int, ...] = ()) -> None:
        origin = SimpleNamespace(data="bank", split="train")
        self.contract = SimpleNamespace(origin=origin, bank=SimpleNamespace(storage=storage))
        self.neighbors = np.asarray(neighbors, np.int32)

    def run_batch(self, images: list[np.ndarray[Any, Any]]) -> list[Any]:
        return [
            SimpleNamespace(
                embedding=image.reshape(-1, 3).mean(axis=0)[:2].astype(np.float32),
                neighbors=self.neighbors,
            )
            for image in images
        ]


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


def _coloured(folder: Path, name: str, colour: tuple[int, int], label: str) -> Sample:
    path = folder / f"{name}.png"
    write_image(path, np.full((8, 8, 3), (*colour, 0), np.uint8))
    return Sample(path, label)


def _run(dataset: Dataset, bank: Bank, **model: Any) -> Any:
    folded: Any = _Colours(**model)
    return evaluate_retrieval(folded, dataset, bank)


def test_every_measure_is_that_of_the_ranking_by_hand(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    samples = (
        _coloured(tmp_path, "w", (250, 20), "white"),
        _coloured(tmp_path, "b", (200, 90), "black"),
        _coloured(tmp_path, "x", (5, 5), "purple"),
        Sample(broken, "black"),
    )
    found = _run(Dataset("some", "test", samples), _bank(None))
    assert [query.answer for query in found.queries] == ["white", "white"]
    assert (found.unknown_labels, found.lone) == (1, 0)
    assert [path for path, _ in found.skipped] == [str(broken)]
    document = report_document(found, _bank(None), draws=50)
    # The second one's rows are white, white, black, black.
    assert document["recall_at_1"]["mean"] == 0.5
    assert document["recall_at_5"]["mean"] == 1
    assert document["cmc"] == [0.5, 0.5, 1, 1]
    assert document["map"]["mean"] == pytest.approx((1 + (1 / 3 + 2 / 4) / 2) / 2)
    assert document["minp"]["mean"] == pytest.approx((1 + 2 / 4) / 2)
    assert document["per_label"]["white"]["recall_at_1"]["mean"] == 1
    # One hit of one proves little.
    assert document["per_label"]["white"]["recall_at_1"]["low"] == pytest.approx(0.2065, abs=1e-3)
    assert document["confusion"] == [{"label": "black", "answer": "white", "images": 1}]
    assert document["queries"][1]["rank_of_first_right"] == 3
    text = text_report(document)
    assert "taken for another: black for white (1 images)" in text
    assert "left out: 1 images of labels" in text


def test_a_data_set_of_other_labels_is_refused(tmp_path: Path) -> None:
    samples = (_coloured(tmp_path, "x", (5, 5), "purple"),)
    with pytest.raises(FoldcamError, match="no row of any label"):
        _run(Dataset("other", "test", samples), _bank(None))


def test_what_a_search_in_lists_found_comes_first(tmp_path: Path) -> None:
    storage = SimpleNamespace(search="lists", embeddings="float32")
    dataset = Dataset("some", "test", (_coloured(tmp_path, "b", (20, 240), "black"),))
    (query,) = _run(dataset, _bank(None), storage=storage, neighbors=(3,)).queries
    assert (query.answer, query.measures.first) == ("white", 2)


@pytest.mark.parametrize("known", [True, False])
def test_images_of_the_bank_never_find_themselves(tmp_path: Path, known: bool) -> None:
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
    found = _run(Dataset("some", "test", (own, odd, new)), bank)
    assert found.own_images == 2
    assert [query.right for query in found.queries] == [True, False, True]
    assert found.notes[0].startswith("2 of the 3 images are in the bank")
    assert report_document(found, bank, draws=10)["own_images"] == 2


def test_a_twin_in_another_file_is_no_match_either(tmp_path: Path) -> None:
    twin = _coloured(tmp_path, "twin", (10, 200), "black")
    bank = replace(_bank(None), image_hashes=hash_rows(["ab" * 32] * 4))
    assert not _run(Dataset("some", "test", (twin,)), bank).queries[0].in_bank
    rows = bank.embeddings.copy()
    rows[0] = np.asarray([10, 200]) / np.hypot(10, 200)
    (query,) = _run(Dataset("some", "test", (twin,)), replace(bank, embeddings=rows)).queries
    assert (query.in_bank, query.match) == (True, 1)


def test_in_a_bank_of_equal_rows_an_equal_embedding_is_no_proof(tmp_path: Path) -> None:
    bank = replace(_bank(None), embeddings=np.tile([[0.0, 1.0]], (4, 1)).astype(np.float32))
    sample = _coloured(tmp_path, "b", (0, 200), "black")
    (query,) = _run(Dataset("some", "test", (sample,)), bank).queries
    assert query.match == 1
    hashed = replace(bank, image_hashes=hash_rows(["ab" * 32] * 4))
    assert _run(Dataset("some", "test", (sample,)), hashed).queries[0].match == 0


def test_an_image_without_another_row_of_its_label_is_left_out(tmp_path: Path) -> None:
    alone = replace(
        _bank(None),
        embeddings=np.asarray([[0, 1], [1, 0], [0.9, 0.1], [0.8, 0.2]], np.float32),
        labels=(LabelRun("black", 1), LabelRun("white", 3)),
    )
    samples = (_coloured(tmp_path, "b", (0, 200), "black"),)
    with pytest.raises(FoldcamError, match="only rows of their labels"):
        _run(Dataset("some", "test", samples), alone)
    found = _run(
        Dataset("some", "test", (*samples, _coloured(tmp_path, "w", (99, 44), "white"))), alone
    )
    assert (len(found.queries), found.lone) == (1, 1)
    assert "1 images were left out" in found.notes[0]


def test_a_data_set_that_the_bank_was_built_from_is_said_first(tmp_path: Path) -> None:
    dataset = Dataset("bank", "train", (_coloured(tmp_path, "w", (250, 90), "white"),))
    (note,) = _run(dataset, _bank(None)).notes
    assert "The bank was built from bank, split train, too" in note
    assert _run(replace(dataset, split="test"), _bank(None)).notes == ()


def test_an_answer_that_is_not_finite_is_listed(tmp_path: Path) -> None:
    class _Broken(_Colours):
        def run_batch(self, images: list[np.ndarray[Any, Any]]) -> list[Any]:
            results = super().run_batch(images)
            results[0].embedding[0] = np.nan
            return results

    samples = tuple(_coloured(tmp_path, f"w{n}", (250, 90), "white") for n in range(2))
    broken: Any = _Broken()
    found = evaluate_retrieval(broken, Dataset("some", "test", samples), _bank(None))
    assert len(found.queries) == 1
    assert found.skipped == ((str(samples[0].path), found.skipped[0][1]),)
    assert "not finite" in found.skipped[0][1]
