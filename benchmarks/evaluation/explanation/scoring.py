"""What an embedding says of a picture's label: contrast, margin, and whether it is right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.objectives.directions import all_triplets

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

SCORES = ("contrast", "margin", "right")


class Scorer:
    """Scores of embeddings against the training rows; see the package for the definitions.

    Args:
        bank: the training rows, of two labels at least.
    """

    def __init__(self, bank: Bank) -> None:
        self._rows = bank.embeddings
        self._labels = np.asarray(bank.row_labels(), object)
        _, firsts, classes = np.unique(
            self._labels.astype(str), return_index=True, return_inverse=True
        )
        directions = all_triplets(bank.embeddings, classes.astype(np.int64)).values
        self._directions = {str(self._labels[row]): directions[row] for row in firsts}

    def direction(self, label: str) -> Floats:
        """`float32 [D]`: mean of the label's rows minus the mean of all others."""
        direction: Floats = self._directions[label]
        return direction

    def __call__(self, embeddings: Floats, label: str) -> Doubles:
        """Scores `float64 [B, 3]` in the order of `SCORES`, of embeddings of one label's pictures.

        An embedding without a direction (zero, or not finite) has no contrast and no margin, and
        its label is not right.

        Args:
            embeddings: `float32 [B, D]`, as the network returns them.
            label: which the pictures have.
        """
        unit = unit_or_zero(embeddings)
        similarities = unit @ self._rows.T
        own = self._labels == label
        margin = similarities[:, own].max(axis=1) - similarities[:, ~own].max(axis=1)
        contrast = unit @ self.direction(label)
        return np.stack([contrast, margin, margin > 0], axis=1).astype(np.float64)


def unit_or_zero(embeddings: Floats) -> Floats:
    """Embeddings `[B, D]` over their norms; zeros where there is none."""
    finite = np.where(np.isfinite(embeddings).all(axis=1, keepdims=True), embeddings, 0)
    norms = np.linalg.norm(finite.astype(np.float64), axis=1, keepdims=True)
    unit: Floats = (finite / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit
