"""What every backend is: the interface that runs a folded model."""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.schema import Contract

Provider = Literal["auto", "cpu", "cuda", "tensorrt", "rtx"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
Library = Literal["auto", "tensorrt", "onnxruntime"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
Array = npt.NDArray[Any]


class Backend(Protocol):
    """A loaded folded model."""

    @property
    def name(self) -> str:
        """The library and its version, such as `onnxruntime 1.22`."""

    @property
    def device(self) -> str:
        """What it runs on, such as `cpu` or `cuda`."""

    @property
    def contract(self) -> Contract:
        """What the model promises; its tensors were checked against it."""

    def run(self, images: Array) -> dict[str, Array]:
        """One forward pass.

        Args:
            images: as the contract's `image`: `float32 [N,3,H,W]` or `uint8 [N,H,W,3]`.

        Returns:
            Every output of the model by name, batch first.

        Raises:
            FoldcamError: the library failed, for example for lack of memory.
        """

    def close(self) -> None:
        """Give memory and device back."""


@runtime_checkable
class Resident(Protocol):
    """A backend that can leave out its copies to and from a GPU, to be timed without them."""

    def run_resident(self, rows: int) -> None:
        """One forward pass over images that the last `run` left on the GPU."""


@runtime_checkable
class TakesBank(Protocol):
    """A backend that runs models whose bank is an input."""

    @property
    def bank(self) -> LiveBank | None:
        """The bank that it answers by; None for a model whose bank is no input."""

    def use_bank(self, bank: LiveBank, contract: Contract) -> None:
        """Answer by a bank from the next pass on."""

    def run_query(self, images: Array, query: Array) -> dict[str, Array]:
        """One forward pass of a model that can be asked for other directions than the bank's.

        Args:
            query: `float32 [N,D]`; an image whose row is zero is asked for the bank's direction.
        """


def dtype_of(contract: Contract) -> np.dtype[Any]:
    """dtype of the model's input."""
    return np.dtype(contract.input_type)
