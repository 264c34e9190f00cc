"""What is wrong with a bank, as far as its rows say it of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from foldcam.export.banks.audit.disagreement import (
    FIRST,
    PLANTED,
    Disagreement,
    Judges,
    Trial,
    listed_rows,
    run_trial,
)
from foldcam.export.banks.audit.neighbors import (
    Integers,
    Mixed,
    Neighbors,
    Pair,
    find_neighbors,
    lonely_rows,
    mixed_labels,
    near_duplicates,
)
from foldcam.export.banks.bank import Bank
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import quantity

SHOWN_NEIGHBORS = 3
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Audit:
    """What looks wrong in a bank.

    Attributes:
        labels: its labels, sorted; classes are their numbers.
        classes: `int64 [N]`.
        neighbors: the nearest rows of each.
        disagreement: what speaks against each row's label.
        duplicates: pairs of rows of different labels that may be one picture.
        mixed: labels whose rows mix.
        lonely: rows far from everything, the farthest first.
        trial: how many planted wrong labels this audit finds in this bank; None where the bank
            is too large to try.
        notes: what the reader should know, one sentence each.
    """

    bank: Bank
    labels: Sequence[str]
    classes: Integers
    neighbors: Neighbors
    disagreement: Disagreement
    duplicates: list[Pair]
    mixed: list[Mixed]
    lonely: list[int]
    trial: Trial | None
    notes: list[str] = field(default_factory=list)

    def suspects(self) -> list[int]:
        """The first `FIRST` of the rows, those whose label is most in doubt first."""
        return [int(row) for row in self.disagreement.order[: listed_rows(self.bank.rows)]]

    def row(self, row: int) -> dict[str, Any]:
        """What is known of a row: number, name, label."""
        return {
            "row": row,
            "name": self.bank.row_names()[row] or None,
            "label": self.labels[self.classes[row]],
        }

    def similarity(self, first: int, second: int) -> float:
        """The cosine of two rows, as a folded model gives it."""
        return round(float(self.bank.embeddings[first] @ self.bank.embeddings[second]), 4)

    def nearest(self, row: int) -> list[dict[str, Any]]:
        """A row's nearest rows, with their similarity."""
        near = self.neighbors.rows[row, :SHOWN_NEIGHBORS].tolist()
        return [{**self.row(each), "similarity": self.similarity(row, each)} for each in near]

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        doubt = self.disagreement
        return {
            "rows": self.bank.rows,
            "labels": len(self.labels),
            "doubted": int(doubt.doubted.sum()),
            "likely_mislabelled": [
                {
                    **self.row(row),
                    "rather": self.labels[doubt.rival[row]],
                    "doubted": bool(doubt.doubted[row]),
                    "against_by_neighbors": round(float(doubt.nearest[row]), 4),
                    "against_by_classifier": round(float(doubt.fitted[row]), 4),
                    "nearest": self.nearest(row),
                }
                for row in self.suspects()
            ],
            "near_duplicates": [
                {
                    "rows": [self.row(pair.first), self.row(pair.second)],
                    "same_picture": pair.same,
                    "similarity": self.similarity(pair.first, pair.second),
                }
                for pair in self.duplicates
            ],
            "mixed_labels": [
                {
                    "labels": [self.labels[pair.first], self.labels[pair.second]],
                    "mixing": round(pair.ratio, 3),
                }
                for pair in self.mixed
            ],
            "lonely": [{**self.row(row), "nearest": self.nearest(row)[:1]} for row in self.lonely],
            "trial": None if self.trial is None else self.trial.document(),
            "notes": self.notes,
        }


def audit_bank(bank: Bank, seed: int = 0, progress: Progress | None = None) -> Audit:
    """Look for rows that are wrong."""
    labels, classes = labels_to_audit(bank)
    say = progress or (lambda *_: None)
    neighbors = find_neighbors(bank.embeddings, partial(say, "neighbors"))
    judges = Judges(neighbors)
    trial = run_trial(judges, classes, bank.embedding_size, seed, partial(say, "planted labels"))
    return Audit(
        bank,
        labels,
        classes,
        neighbors,
        judges.of(classes),
        near_duplicates(neighbors, classes, bank.image_hashes),
        mixed_labels(neighbors, classes),
        lonely_rows(neighbors),
        trial,
        _notes(bank, trial),
    )


def labels_to_audit(bank: Bank) -> tuple[list[str], Integers]:
    """The labels of a bank, sorted, and `int64 [N]`, the number of each row's."""
    if bank.outcome is not None:
        raise FoldcamError(
            "The bank has values and no labels, and an audit compares labels: there is nothing to "
            "audit."
        )
    if bank.compression.startswith("prototypes") and bank.image_hashes is None:
        raise FoldcamError(
            f"The rows of the bank are means of several images ({bank.compression}): audit the "
            "bank that it was made from."
        )
    names = bank.row_labels()
    labels, classes = np.unique(np.asarray(names, object), return_inverse=True)
    classes = classes.astype(np.int64).reshape(-1)
    if len(labels) < 2 or bank.rows < 3:
        raise FoldcamError(
            f"The bank has {bank.rows} rows of {len(labels)} labels: an audit needs three rows of "
            "two labels at least."
        )
    return [str(label) for label in labels], classes


def trial_text(trial: Trial) -> str:
    """What the trial says of this bank, in a sentence."""
    times = "once" if trial.draws == 1 else f"{trial.draws} times"
    first = "row" if trial.listed == 1 else f"{trial.listed} rows"
    return (
        f"Of wrong labels planted in this bank ({quantity(trial.planted, 'row')}, {PLANTED:.0%}; "
        f"{times}), "
        f"{trial.found:.0%} were among the first {first} ({FIRST:.0%}), {trial.least:.0%} at worst."
    )


def _notes(bank: Bank, trial: Trial | None) -> list[str]:
    notes = []
    if not any(bank.row_names()):
        notes.append(
            "The bank does not know what its images are called: an older foldcam wrote it; build "
            "it again for names."
        )
    if trial is None:
        notes.append("The bank is too large to try how many planted wrong labels are found.")
    elif trial.found < 0.8:
        notes.append(
            "In this bank few wrong labels can be found: its network hardly tells the labels "
            "apart, so that a row in the list may well be right."
        )
    return notes
