"""Which rows of a bank an image is itself: to find oneself says nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import ALIKE, Bank, least_cosine, own_row_cosine
from foldcam.runtime.contract.schema import Contract

Floats = npt.NDArray[np.float32]


class OwnRows:
    """Finds the rows of a bank that an image is itself.

    They are known by the hash of their picture, where the bank has it, and by an embedding that
    is the same: that of a twin, the same pixels in another file. In a bank whose rows are all
    alike, an embedding says nothing, and only the nearest one is taken for the image's own.

    Args:
        bank: of a folded model.
        contract: the model's.
    """

    def __init__(self, bank: Bank, contract: Contract) -> None:
        self._hashes = None
        if bank.image_hashes is not None:
            self._hashes = np.asarray([row.tobytes().hex() for row in bank.image_hashes], object)
        self._same = own_row_cosine(contract)
        self._alike = least_cosine(bank) > ALIKE

    def of(self, cosines: Floats, sha256: str) -> npt.NDArray[np.bool_]:
        """Which rows the image is.

        Args:
            cosines: `float32 [N]`, of its embedding to every row's.
            sha256: the hash of its picture.

        Returns:
            `bool [N]`.
        """
        own = np.zeros(len(cosines), bool)
        if self._hashes is not None:
            own |= np.asarray(self._hashes == sha256, bool)
        if not self._alike:
            own |= cosines >= self._same
        elif self._hashes is None and cosines.max() >= self._same:
            own[cosines.argmax()] = True
        return own
