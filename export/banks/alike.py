"""A bank whose rows are all alike: whatever is shown to it, every answer is as good as chance."""

from __future__ import annotations

import numpy as np

from foldcam.export.banks.bank import Bank
from foldcam.runtime.contract.schema import Contract

ALIKE = 0.999
"""Cosine above which two embeddings of different pictures are hardly different."""

_COMPARED = 512


def own_row_cosine(contract: Contract) -> float:
    """Cosine from which a row of a model's bank is the image itself.

    A bank that is stored in smaller numbers is less exact.
    """
    storage = contract.bank.storage
    return 0.99999 if storage is None or storage.embeddings == "float32" else 0.999


def least_cosine(bank: Bank) -> float:
    """The least cosine between two rows; of a large bank, between some, evenly spread."""
    rows = bank.embeddings[:: max(1, bank.rows // _COMPARED)][:_COMPARED].astype(np.float64)
    return float((rows @ rows.T).min())


def alike_notes(bank: Bank) -> list[str]:
    """A warning where no two rows can be distinguished; else nothing."""
    if bank.rows < 2 or (least := least_cosine(bank)) <= ALIKE:
        return []
    return [
        "WARNING: all embeddings of the bank are nearly the same (the least cosine between two is "
        f"{least:.5f}), so that labels are found by chance. Likely causes: --mean and "
        "--std that are not the network's (a network that normalises its images itself needs "
        "other ones: see docs/networks.md), weights that were not loaded (--weights), or an output "
        "that is not the embedding (--output)."
    ]
