"""Several banks of one network as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldcam.export.banks.bank import Bank, needed_source
from foldcam.export.banks.rows import rows_of, stacked, with_data_hash
from foldcam.export.banks.update import rederived
from foldcam.export.datasets.labels import twins
from foldcam.export.networks.cut import Network
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class MergeReport:
    """What happened while banks were merged.

    Attributes:
        duplicates: rows that were left out, because an earlier bank has the same image under
            the same label.
        conflicts: images that are in it under several labels or values.
        rederived: whether all grad-weights were taken again from all embeddings, so that the
            bank equals one built over all images.
        network_given: whether the network was at hand for that.
    """

    bank: Bank
    duplicates: int
    conflicts: int
    rederived: bool
    network_given: bool

    def notes(self) -> list[str]:
        """What the user should know, one sentence each."""
        notes = []
        if not self.rederived:
            why = (
                "the head is not linear"
                if self.network_given
                else "the network was not given (--model)"
            )
            notes.append(
                f"Rows keep the grad-weights of their own bank, which know nothing of the other "
                f"banks' images: {why}."
            )
        notes += twins(self.bank.row_labels())
        if self.conflicts:
            notes.append(f"{self.conflicts} images are in the bank under more than one label.")
        return notes


def merge_banks(
    banks: Sequence[Bank], names: Sequence[str], network: Network | None = None, seed: int = 0
) -> MergeReport:
    """Put the rows of banks of one network together."""
    for bank, name in zip(banks, names, strict=True):
        needed_source(bank.source, name)
        _check(banks[0], names[0], bank, name)
    kept, duplicates, conflicts = _without_duplicates(banks)
    made = stacked(kept)
    sources = [bank.source for bank in banks if bank.source is not None]
    made = with_data_hash(
        made,
        data=" + ".join(
            dict.fromkeys(part for s in sources for part in s.origin.data.split(" + "))
        ),
        split=" + ".join(
            dict.fromkeys(part for s in sources for part in s.origin.split.split(" + "))
        ),
    )
    again = None if network is None else rederived(made, network, seed)
    return MergeReport(again or made, duplicates, conflicts, again is not None, network is not None)


def _check(first: Bank, first_name: str, other: Bank, name: str) -> None:
    """Refuse a bank whose rows are not comparable with the first one's."""
    assert first.source is not None
    assert other.source is not None
    kinds = [
        "labels"
        if bank.outcome is None
        else f"values ({bank.outcome.transform}, tau {bank.outcome.tau:g})"
        for bank in (first, other)
    ]
    compared = {
        "network": (first.network_sha256[:12], other.network_sha256[:12]),
        "layer": (first.source.layer, other.source.layer),
        "number of channels": (first.channels, other.channels),
        "embedding's size": (first.embedding_size, other.embedding_size),
        "preprocessing": (first.source.preprocessing, other.source.preprocessing),
        "sum over positions": (first.summands, other.summands),
        "grad-weights": (first.rule, other.rule),
        "objective": (first.objective, other.objective),
        "channel rule": (first.channel_rule, other.channel_rule),
        "outcome": (kinds[0], kinds[1]),
        "compression": (first.compression, other.compression),
    }
    for what, (expected, found) in compared.items():
        if expected != found:
            raise FoldcamError(
                f"{first_name} and {name} cannot be merged: their {what} differs ({expected} and "
                f"{found}); build one of them again with the other's."
            )
    if first.compression != "none":
        raise FoldcamError(
            f"{name} is compressed ({first.compression}), and what was left out cannot be merged: "
            "merge the banks that they were made from, and compress then."
        )


def _without_duplicates(banks: Sequence[Bank]) -> tuple[list[Bank], int, int]:
    """The banks without rows that an earlier one has; how many, and how many disagree."""
    seen: dict[bytes, set[str]] = {}
    kept, duplicates = [], 0
    for bank in banks:
        if bank.image_hashes is None:
            kept.append(bank)
            continue
        names = bank.row_labels() or [repr(float(v)) for v in bank.outcome.values]  # type: ignore[union-attr]
        images = [row.tobytes() for row in bank.image_hashes]
        # A bank's own repetitions are as its builder wanted them.
        new = [n for n, image in enumerate(images) if names[n] not in seen.get(image, set())]
        duplicates += bank.rows - len(new)
        if new:
            kept.append(rows_of(bank, np.asarray(new, np.int64)))
        for name, image in zip(names, images, strict=True):
            seen.setdefault(image, set()).add(name)
    return kept, duplicates, sum(len(names) > 1 for names in seen.values())
