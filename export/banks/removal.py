"""Rows taken out of a bank on request, with a report of what is left of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.export.bank import Bank
from foldcam.export.banks.rows import file_hashes, rows_of, with_data_hash
from foldcam.export.banks.update import rederived
from foldcam.export.datasets.reading import PHOTOGRAPH_DIGITS, picture_hash
from foldcam.export.datasets.samples import Box
from foldcam.export.networks.cut import Network
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file

_ALIKE = 0.995
"""Cosine from which a row that stays is named as perhaps the same picture, coded again."""

_MOST_ALIKE = 20
_CROP = re.compile(r"-?\d+,-?\d+,\d+,\d+")


@dataclass(frozen=True)
class Selection:
    """What is to be removed.

    Attributes:
        labels: every row of these labels.
        images: rows of these image files, by hexadecimal SHA-256; of their crops, too.
        crops: rows of exactly these pictures, by the hash that `picture_hash` gives.
    """

    labels: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    crops: frozenset[str] = frozenset()

    def photographs(self) -> frozenset[str]:
        """What the hashes of all crops of the images begin with."""
        return frozenset(image[:PHOTOGRAPH_DIGITS] for image in self.images)

    def holds(self, picture: str) -> bool:
        """Whether a row of this hash is to be removed."""
        return picture in self.crops or picture[:PHOTOGRAPH_DIGITS] in self.photographs()


@dataclass(frozen=True)
class RemovalReport:
    """A bank without some images, and what can be proved about it.

    Attributes:
        bank: the new bank.
        before: the old one.
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
        kept = [] if hashes is None else [row.tobytes() for row in hashes]
        labels = {run.name for run in self.bank.labels}
        return {
            "no_image_hash_of_theirs": not gone_images & set(kept)
            and not any(self.selection.holds(row.hex()) for row in kept),
            "no_label_that_was_to_go": not labels & self.selection.labels,
            "no_embedding_of_theirs": not theirs & {row.tobytes() for row in self.bank.embeddings},
            "no_grad_weights_of_theirs_alone": set(self.bank.grad_index.tolist())
            == set(range(len(self.bank.grad_weights))),
            "other_rows_unchanged": np.array_equal(
                self.bank.embeddings, self.before.embeddings[left]
            ),
        }

    def alike(self) -> list[dict[str, Any]]:
        """Rows that stay and are nearly the same as one that went."""
        gone = self.before.embeddings[self.removed]
        nearest = (self.bank.embeddings @ gone.T).max(axis=1)
        labels = self.bank.row_labels()
        hashes = self.bank.image_hashes
        order = [int(row) for row in np.argsort(-nearest) if nearest[row] >= _ALIKE]
        return [
            {
                "label": labels[row] if labels else None,
                "image_sha256": None if hashes is None else hashes[row].tobytes().hex(),
                "similarity": round(float(nearest[row]), 6),
            }
            for row in order[:_MOST_ALIKE]
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
            f"labels, in which the {len(self.removed)} removed images were {len(self.removed)} of "
            f"{self.before.rows}."
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
        names = self.before.row_labels()
        hashes = self.before.image_hashes
        return {
            "removed": [
                {
                    "label": names[row] if names else None,
                    "image_sha256": None if hashes is None else hashes[row].tobytes().hex(),
                }
                for row in self.removed
            ],
            "rows_before": self.before.rows,
            "rows_after": self.bank.rows,
            "sha256_before": self.before.sha256(),
            "sha256_after": self.bank.sha256(),
            "network_sha256": self.bank.network_sha256,
            "asked_for": {
                "labels": sorted(self.selection.labels),
                "image_sha256": sorted(self.selection.images | self.selection.crops),
            },
            "not_found": self.not_found,
            "checks": self.checks(),
            "complete": all(self.checks().values()),
            "recomputed": self.recomputed,
            "traces_in_aggregates": self.traces(),
            "rows_that_look_alike": self.alike(),
            "not_covered": self.limits(),
        }


def remove_from_bank(
    bank: Bank, selection: Selection, network: Network | None = None, seed: int = 0
) -> RemovalReport:
    """Take rows out of a bank.

    Args:
        bank: the bank.
        selection: which rows.
        network: the network that made it. With it, and with a linear head, all grad-weights
            are taken again from the rows that are left; else they stay, and the report says
            what part the removed images had in them.
        seed: the seed of sampled triplets, as when the bank was built.

    Raises:
        FoldcamError: none of it is in the bank, nothing would be left to compare, images are
            named and the bank does not know its files, or another network than the bank's.
    """
    labels = bank.row_labels()
    if selection.labels and not labels:
        raise FoldcamError("The bank has values and no labels: name images.")
    named = selection.images | selection.crops
    hashes = file_hashes(bank, "images cannot be found in it") if named else []
    gone = [
        row
        for row in range(bank.rows)
        if (labels and labels[row] in selection.labels) or (hashes and selection.holds(hashes[row]))
    ]
    there = {picture[:PHOTOGRAPH_DIGITS] for picture in hashes}
    not_found = [
        *sorted(selection.labels - set(labels)),
        *sorted(image for image in selection.images if image[:PHOTOGRAPH_DIGITS] not in there),
        *sorted(selection.crops - set(hashes)),
    ]
    if not gone:
        raise FoldcamError(
            f"The bank has none of what is to be removed ({', '.join(not_found[:3])}"
            f"{', ...' if len(not_found) > 3 else ''}): nothing was changed."
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
        again or made,
        bank,
        gone,
        selection,
        not_found,
        again is not None,
        network is not None,
    )


def selection_of(labels: Iterable[str], names: Iterable[str], bank: Bank) -> Selection:
    """What is to be removed from a bank, as people name it.

    Args:
        labels: labels.
        names: image files, whose crops go with them; one crop as `photo.jpg#x,y,w,h`; or
            hexadecimal hashes, of a file or as reports name a row.
        bank: which knows whether a hash is a row's.

    Raises:
        FoldcamError: a name that is none of them.
    """
    rows = set() if bank.image_hashes is None else {r.tobytes().hex() for r in bank.image_hashes}
    images: set[str] = set()
    crops: set[str] = set()
    for name in names:
        path, _, box = name.strip().rpartition("#")
        if _CROP.fullmatch(box) and not Path(name.strip()).exists():
            (photograph,) = image_hashes_of([path])
            crops.add(picture_hash(photograph, Box(*map(int, box.split(",")))))
            continue
        (found,) = image_hashes_of([name])
        is_row = found == name.strip().lower() and found in rows
        (crops if is_row else images).add(found)
    return Selection(frozenset(labels), frozenset(images), frozenset(crops))


def image_hashes_of(names: Iterable[str]) -> frozenset[str]:
    """Hashes of image files.

    Args:
        names: paths of files, or hexadecimal SHA-256 hashes.

    Raises:
        FoldcamError: neither.
    """
    found = set()
    for name in names:
        text = name.strip()
        if len(text) == 64 and not set(text.lower()) - set("0123456789abcdef"):
            found.add(text.lower())
            continue
        try:
            found.add(sha256_of_file(Path(text)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise FoldcamError(
                f"{text!r} is neither a readable image file ({reason}) nor a SHA-256 hash: an "
                "image is known by its file's bytes."
            ) from None
    return frozenset(found)
