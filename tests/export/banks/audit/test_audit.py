"""An audit finds what was planted in a bank made by hand, and says how much it would find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from foldcam.export.banks.audit.audit import audit_bank, trial_text
from foldcam.export.banks.audit.disagreement import Judges, plant, ranks
from foldcam.export.banks.audit.neighbors import find_neighbors
from foldcam.export.banks.bank import Bank, BankOutcome, label_runs
from foldcam.export.commands.bank import app
from foldcam.runtime.contract.schema import LabelRun
from foldcam.runtime.system.errors import FoldcamError


def clusters(counts, spread=0.15, size=16, seed=0) -> np.ndarray:
    """Rows around one axis for each count, `float32 [N, size]` of norm 1."""
    generator = np.random.default_rng(seed)
    axes = np.repeat(np.eye(size)[: len(counts)], counts, axis=0)
    rows = axes + spread * generator.normal(size=axes.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def bank_of(embeddings, labels, names=None, hashes=None) -> Bank:
    """A bank of these rows, sorted by label."""
    order = np.asarray(sorted(range(len(labels)), key=labels.__getitem__))
    hashes = np.arange(len(labels)) if hashes is None else np.asarray(hashes)
    pictures = np.zeros((len(labels), 32), np.uint8)
    pictures[:, 0] = hashes
    names = names or [f"{n}.jpg" for n in range(len(labels))]
    return Bank(
        embeddings[order],
        np.ones((1, 4), np.float32),
        np.zeros(len(labels), np.int32),
        label_runs([labels[n] for n in order]),
        "all-triplets",
        image_hashes=pictures[order],
        names=tuple(names[n] for n in order),
    )


def test_wrong_labels_are_named_first_with_the_right_label() -> None:
    labels = ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    labels[3], labels[25], labels[59] = "b", "c", "a"
    found = audit_bank(bank_of(clusters([20, 20, 20]), labels))
    first = found.document()["likely_mislabelled"]
    assert len(first) == 9
    assert {(i["name"], i["label"], i["rather"]) for i in first[:3]} == {
        ("3.jpg", "b", "a"),
        ("25.jpg", "c", "b"),
        ("59.jpg", "a", "c"),
    }
    assert [item["doubted"] for item in first] == [True] * 3 + [False] * 6
    assert found.document()["doubted"] == 3
    assert {near["label"] for near in first[0]["nearest"]} == {first[0]["rather"]}
    assert found.trial is not None
    assert found.trial.found == 1
    assert (found.trial.planted, found.trial.listed, found.trial.draws) == (3, 9, 20)
    assert "(3 rows, 5%; 20 times), 100% were among the first 9" in trial_text(found.trial)


def test_a_label_of_two_clusters_is_not_doubted() -> None:
    labels = ["a"] * 15 + ["b"] * 15 + ["a"] * 15
    labels[20] = "a"
    found = audit_bank(bank_of(clusters([15, 15, 15]), labels))
    doubted = np.flatnonzero(found.disagreement.doubted)
    assert [found.row(row)["name"] for row in doubted] == ["20.jpg"]


def test_leave_one_out_scores_are_those_of_fits_without_the_row() -> None:
    rows, classes = clusters([6, 5], 0.4, 4), np.asarray([0] * 6 + [1] * 5)
    neighbors = find_neighbors(rows)
    found = Judges(neighbors).of(classes).fitted
    inputs = np.c_[neighbors.centred, np.ones(11)].astype(np.float64)
    for row in (0, 7):
        others = np.arange(11) != row
        gram = inputs[others].T @ inputs[others] + np.eye(5)
        weights = np.linalg.solve(gram, inputs[others].T @ np.eye(2)[classes[others]])
        scores = inputs[row] @ weights
        assert found[row] == pytest.approx(scores[1 - classes[row]] - scores[classes[row]])


def test_equal_values_have_one_rank() -> None:
    np.testing.assert_allclose(
        ranks(np.asarray([3.0, 1.0, 3.0, 2.0])), [2.5 / 3, 0, 2.5 / 3, 1 / 3]
    )


def test_near_duplicates_across_labels_are_listed_and_within_a_label_are_not() -> None:
    rows = clusters([10, 10])
    rows[13], rows[4] = rows[2], rows[3]
    rows[15] = rows[5] + 0.001 * rows[0]
    rows[15] /= np.linalg.norm(rows[15])
    hashes = list(range(20))
    hashes[13] = 2
    found = audit_bank(bank_of(rows, ["a"] * 10 + ["b"] * 10, hashes=hashes)).document()
    pairs = [
        ({item["name"] for item in pair["rows"]}, pair["same_picture"])
        for pair in found["near_duplicates"]
    ]
    assert pairs == [({"2.jpg", "13.jpg"}, True), ({"5.jpg", "15.jpg"}, False)]


def test_one_cluster_under_two_names_is_named_and_clusters_apart_are_not() -> None:
    labels = ["anna"] * 12 + ["Ann"] * 8 + ["bob"] * 20
    found = audit_bank(bank_of(clusters([20, 20]), labels)).document()["mixed_labels"]
    assert [pair["labels"] for pair in found] == [["Ann", "anna"]]
    assert 0.7 <= found[0]["mixing"] <= 1.4


def test_a_row_far_from_everything_is_lonely() -> None:
    rows = clusters([20, 20])
    rows[7] = np.eye(16)[9]
    found = audit_bank(bank_of(rows, ["a"] * 20 + ["b"] * 20)).document()
    assert [item["name"] for item in found["lonely"]] == ["7.jpg"]


def test_an_audit_says_how_far_it_is() -> None:
    bank = bank_of(clusters([20, 20]), ["a"] * 20 + ["b"] * 20)
    said: list[tuple[str, int, int]] = []
    audit_bank(bank, progress=lambda *call: said.append(call))
    assert said[0] == ("neighbors", 40, 40)
    assert said[1:] == [("planted labels", draw, 20) for draw in range(1, 21)]


def test_planted_labels_are_other_labels() -> None:
    classes = np.repeat(np.arange(4), 10)
    changed, rows = plant(classes, 6, np.random.default_rng(0))
    assert len(set(rows.tolist())) == 6
    assert set(np.flatnonzero(changed != classes)) == set(rows.tolist())
    assert set(changed) <= set(range(4))


def test_banks_that_cannot_be_audited_are_refused_in_a_sentence(random_bank) -> None:
    values = random_bank(6, 4, 3, transform="none")
    assert isinstance(values.outcome, BankOutcome)
    means = replace(random_bank(6, 4, 3), compression="prototypes:2")
    one = bank_of(clusters([5, 1]), ["a"] * 6)
    for bank, sentence in [
        (values, "values and no labels"),
        (means, "means of several images"),
        (one, "6 rows of 1 labels"),
    ]:
        with pytest.raises(FoldcamError, match=sentence):
            audit_bank(bank)


@pytest.mark.parametrize("count", [3, 4, 12])
def test_small_and_equal_rows_give_an_audit_and_no_warning(count, recwarn) -> None:
    rows = np.ones((count, 4), np.float32) / 2
    found = audit_bank(bank_of(rows, ["a"] * (count - 1) + ["b"])).document()
    assert len(found["likely_mislabelled"]) == 1
    assert not list(recwarn)


def test_a_bank_of_before_is_audited_by_the_numbers_of_its_rows(tmp_path: Path) -> None:
    held = replace(bank_of(clusters([9, 9]), ["a"] * 9 + ["b"] * 9), names=None, image_hashes=None)
    held.save(tmp_path / "old.safetensors")
    done = CliRunner().invoke(app, ["bank", "audit", str(tmp_path / "old.safetensors")])
    assert done.exit_code == 0, done.output
    assert "does not know what its images are called" in done.output
    assert "row " in done.output


def test_hostile_names_and_labels_reach_page_and_terminal_escaped(tmp_path: Path) -> None:
    rows = clusters([9, 9])
    labels = ["<script>alert(1)</script>"] * 9 + ["\x1b[2J"] * 9
    names = ['"><img src=x onerror=alert(1)>'] * 18
    held = bank_of(rows, labels, names)
    held.save(tmp_path / "x.safetensors")
    page = tmp_path / "audit.html"
    done = CliRunner().invoke(
        app, ["bank", "audit", str(tmp_path / "x.safetensors"), "--out", str(page)]
    )
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    text = page.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "\x1b" not in text


def test_labels_are_runs_as_in_any_bank() -> None:
    assert bank_of(clusters([2, 1]), ["b", "a", "b"]).labels == (LabelRun("a", 1), LabelRun("b", 2))
