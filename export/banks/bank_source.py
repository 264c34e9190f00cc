"""Where a bank comes from: enough to fold it, to add to it, and to refuse another network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from foldcam.runtime.contract.schema import Contract, Origin
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class BankSource:
    """What a contract needs beside the rows themselves.

    Attributes:
        origin: network and data.
        layer: the feature map's name in the network.
        preprocessing: how the images became the network's input.
    """

    origin: Origin
    layer: str
    preprocessing: Preprocessing

    @staticmethod
    def of(contract: Contract) -> BankSource:
        """Where the bank inside a folded model comes from."""
        return BankSource(contract.origin, contract.layer, contract.preprocessing)

    def document(self) -> dict[str, Any]:
        """For the header of a bank's file."""
        return asdict(self)


def needed_source(source: BankSource | None, where: str) -> BankSource:
    """The source of a bank that must have one.

    Args:
        source: the source of the bank.
        where: the bank's file, for the message.

    Raises:
        FoldcamError: an older foldcam wrote the bank, without its source.
    """
    if source is None:
        raise FoldcamError(
            f"{where} does not say which layer and preprocessing it was made with: build it again "
            "with foldcam bank build."
        )
    return source
