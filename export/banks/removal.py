"""Rows taken out of a bank on request, with a report of what is left of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.rows import file_hashes, rows_of, with_data_hash
from foldcam.export.banks.selection import Selection
from foldcam.export.banks.update import rederived
from foldcam.export.datasets.reading import PHOTOGRAPH_DIGITS
from foldcam.export.networks.cut import Network
from foldcam.runtime.system.errors import FoldcamError

_ALIKE = 0.995
"""Cosine from which a row that stays is named as perhaps the same picture, coded again."""

_MOST_ALIKE = 20


@dataclass(frozen=True)
class RemovalReport:
    """A bank without some images, and what can be proved about it.

    Attributes:
        removed: rows of the old bank that are gone, ascending.
        selection: what was asked for.
        not_found: labels and images that the bank does not have.
        recomputed: whether all grad-weights were taken again from what is left.
        network_given: whether the network was at hand for that.
    """

    bank: Bank
    before: Bank
    removed: list[int]
    selection: Selection
    not_found: list[str]
    recomputed: bool
    network_given: bool

    def checks(self) -> dict[str, bool]:
        """What was looked for in the new bank's arrays; all true, or the removal is not whole."""
        gone = np.asarray(self.removed)
        left = np.setdiff1d(np.arange(self.before.rows), gone)
        theirs = {row.tobytes() for row in self.before.embeddings[gone]}
        hashes = self.bank.image_hashes
        old_hashes = self.before.image_hashes
        gone_images = set() if old_hashes is None else {row.tobytes() for row in old_hashes[gone]}
        # What stays on purpose is reported by itself.
        for row in self.same_pictures():
            theirs.discard(self.bank.embeddings[row].tobytes())
            gone_images.discard(hashes[row].tobytes() if hashes is not None else b"")
        kept = [] if hashes is None else [row.tobytes() for row in hashes]
        labels = {run.name for run in self.bank.labels}
        return {
            "no_image_hash_of_theirs": not gone_images & set(kept)
            and not any(self.selection.holds(row.hex()) for row in kept),
            "no_label_that_was_to_go": not labels & self.selection.labels,
            "no_name_that_was_to_go": not self.selection.names & set(self.bank.row_names()),
            "no_embedding_of_theirs": not theirs & {row.tobytes() for row in self.bank.embeddings},
            "no_grad_weights_of_theirs_alone": set(self.bank.grad_index.tolist())
            == set(range(len(self.bank.grad_weights))),
            "other_rows_unchanged": np.array_equal(
                self.bank.embeddings, self.before.embeddings[left]
            ),
        }

    def same_pictures(self) -> list[int]:
        """Rows of the new bank whose picture went under another name, and was named by it alone."""
        old, new = self.before.image_hashes, self.bank.image_hashes
        if old is None or new is None:
            return []
        labels, names = self.before.row_labels(), self.before.row_names()
        by_name = {
            old[row].tobytes()
            for row in self.removed
            if names[row] in self.selection.names
            and not (labels and labels[row] in self.selection.labels)
            and not self.selection.holds(old[row].tobytes().hex())
        }
        return [row for row in range(self.bank.rows) if new[row].tobytes() in by_name]

    def alike(self) -> list[dict[str, Any]]:
        """Rows that stay and are nearly the same as one that went."""
        gone = self.before.embeddings[self.removed]
        nearest = (self.bank.embeddings @ gone.T).max(axis=1)
        order = [int(row) for row in np.argsort(-nearest) if nearest[row] >= _ALIKE]
        return [
            {**described, "similarity": round(float(nearest[row]), 6)}
            for row, described in zip(order, _rows(self.bank, order[:_MOST_ALIKE]), strict=False)
        ]

    def traces(self) -> list[str]:
        """What of the removed images is still in numbers that stand for many images."""
        if self.recomputed:
            return [
                "None: every row of grad-weights was computed again from the embeddings that are "
                "left, so that the bank is the one that would have been built without these images."
            ]
        why = (
            "the head is not linear, and each row's grad-weights need its own image again: build "
            "the bank from the images that are left"
            if self.network_given
            else "for which the network is needed: pass --model"
        )
        if self.before.outcome is not None:
            return [
                "The remaining rows' grad-weights were computed from weighted means over all rows, "
                f"in which the {len(self.removed)} removed images had a part; they were not "
                f"computed again, {why}."
            ]
        names = self.before.row_labels()
        every, gone = Counter(names), Counter(names[row] for row in self.removed)
        lines = [
            f"The grad-weights of label {label!r} come from a comparison with the mean over its "
            f"{every[label]} images, {count} of which were removed."
            for label, count in gone.items()
            if count < every[label]
        ]
        lines.append(
            "The grad-weights of every label come from a comparison with the images of the other "
            f"labels; {len(self.removed)} of all {self.before.rows} images were removed."
        )
        lines.append(f"These were not computed again, {why}.")
        return lines

    def limits(self) -> list[str]:
        """What this report does not cover."""
        return [
            "The old bank's file, copies and backups of it, and models folded from it still hold "
            f"the removed rows: the old bank's hash is {self.before.sha256()}.",
            "If the network was trained on these images, its weights were shaped by them; nothing "
            "here changes a network.",
            "A picture that was coded again has another file hash: rows that look alike are listed "
            "for a person to judge.",
        ]

    def document(self) -> dict[str, Any]:
        """The report, for a file or `--json`."""
        return {
            "removed": _rows(self.before, self.removed),
            "same_picture_stays": _rows(self.bank, self.same_pictures()),
            "rows_before": self.before.rows,
            "rows_after": self.bank.rows,
            "sha256_before": self.before.sha256(),
            "sha256_after": self.bank.sha256(),
            "network_sha256": self.bank.network_sha256,
            "asked_for": {
                "labels": sorted(self.selection.labels),
                "image_sha256": sorted(self.selection.images | self.selection.crops),
                "names": sorted(self.selection.names),
            },
            "not_found": self.not_found,
            "checks": self.checks(),
            "complete": all(self.checks().values()),
            "recomputed": self.recomputed,
            "traces_in_aggregates": self.traces(),
            "rows_that_look_alike": self.alike(),
            "not_covered": self.limits(),
        }


def _near_labels(selection: Selection, labels: Sequence[str]) -> str:
    near = [
        found
        for label in sorted(selection.labels)
        for found in get_close_matches(label, sorted(set(labels)), 1)
    ]
    return f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""


def _rows(bank: Bank, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What a report says of rows."""
    labels, names, hashes = bank.row_labels(), bank.row_names(), bank.image_hashes
    return [
        {
            "name": names[row] or None,
            "label": labels[row] if labels else None,
            "image_sha256": None if hashes is None else hashes[row].tobytes().hex(),
        }
        for row in rows
    ]


def remove_from_bank(
    bank: Bank, selection: Selection, network: Network | None = None, seed: int = 0
) -> RemovalReport:
    """Take rows out of a bank."""
    labels = bank.row_labels()
    if selection.labels and not labels:
        raise FoldcamError("The bank has values and no labels: name images.")
    named = selection.images | selection.crops
    hashes = file_hashes(bank, "images cannot be found in it") if named else []
    names = bank.row_names()
    gone = [
        row
        for row in range(bank.rows)
        if (labels and labels[row] in selection.labels)
        or names[row] in selection.names
        or (hashes and selection.holds(hashes[row]))
    ]
    there = {picture[:PHOTOGRAPH_DIGITS] for picture in hashes}
    not_found = [
        *sorted(selection.labels - set(labels)),
        *sorted(image for image in selection.images if image[:PHOTOGRAPH_DIGITS] not in there),
        *sorted(selection.crops - set(hashes)),
        *sorted(selection.names - set(names)),
    ]
    if not gone:
        raise FoldcamError(
            f"The bank has none of what is to be removed ({', '.join(not_found[:3])}"
            f"{', ...' if len(not_found) > 3 else ''}): nothing was changed."
            f"{_near_labels(selection, labels)}"
        )
    left = np.setdiff1d(np.arange(bank.rows), gone)
    if not len(left) or (labels and len({labels[row] for row in left}) < 2):
        raise FoldcamError(
            "Fewer than two labels would be left, and a comparison needs two: delete the bank's "
            "file, or add other images first."
        )
    made = with_data_hash(rows_of(bank, left))
    again = None if network is None else rederived(made, network, seed)
    return RemovalReport(
        again or made, bank, gone, selection, not_found, again is not None, network is not None
    )
