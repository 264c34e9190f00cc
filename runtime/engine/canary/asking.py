"""Showing the probe pictures to a library that runs a folded model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.engine.canary.pictures import as_input, input_size, probe_bank, probe_picture
from foldcam.runtime.engine.canary.verdict import ProbeVerdict, judge

Array = npt.NDArray[Any]


class Runs(Protocol):
    """What is asked, as `runtime.backends.Backend`."""

    @property
    def name(self) -> str:
        """The library and its version."""
        ...

    @property
    def device(self) -> str:
        """What it runs on."""
        ...

    @property
    def contract(self) -> Contract:
        """What the model promises."""
        ...

    def run(self, images: Array) -> dict[str, Array]:
        """Every output by name, batch first."""
        ...


class _Takes(Protocol):
    def use_bank(self, bank: LiveBank, contract: Contract) -> None: ...


def probe(backend: Runs) -> ProbeVerdict | None:
    """Ask a library for the probe pictures, one per pass; None where the model has none.

    A model whose bank is an input is left with a bank of this function's own.

    Raises:
        FoldcamError: the library failed.
    """
    contract = backend.contract
    if contract.canary is None:
        return None
    found = ask(backend, [answer.seed for answer in contract.canary.answers])
    scores = contract.scores is not None
    return judge(contract.canary, found, scores=scores)


def ask(backend: Runs, seeds: Sequence[int], noise: int = 0) -> list[dict[str, Array]]:
    """Every output for each picture.

    Args:
        noise: grey levels by which the pixels of every second row are made brighter.

    Raises:
        FoldcamError: the library failed.
    """
    contract = backend.contract
    if contract.bank_input is not None:
        bank = probe_bank(contract)
        # It has no network's name, so that it is not checked against the model.
        taking = cast(_Takes, backend)
        taking.use_bank(bank, contract.with_bank(bank.labels, bank.sha256))
    height, width = input_size(contract)
    found = []
    for seed in seeds:
        picture = probe_picture(seed, height, width)
        picture[::2] = np.minimum(picture[::2].astype(np.uint16) + noise, 255)
        outputs = backend.run(as_input(contract, picture))
        found.append({name: np.array(output) for name, output in outputs.items()})
    return found
