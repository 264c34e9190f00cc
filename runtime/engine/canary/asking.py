"""The probe pictures, and what a library that runs a folded model answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.bank.live_bank import LiveBank
from foldcam.runtime.contract.schema import BANK_EMBEDDING, Contract, LabelRun
from foldcam.runtime.contract.tensors import bank_lengths, expected_tensors

Array = npt.NDArray[Any]

_CELLS = (2, 5, 11, 23)
"""Squares along a side."""
_SHARES = (0, 1, 2, 4)
"""Quarters of a pixel that are of the squares."""
_VALUES = 3 * 23 * 23
_BANK_SEED, _BANK_LABELS, _BANK_ROWS = 1 << 20, 3, 6


class Runs(Protocol):
    """What is asked, as `runtime.backends.Backend`."""

    @property
    def name(self) -> str:
        """The library and its version."""

    @property
    def device(self) -> str:
        """What it runs on."""

    @property
    def contract(self) -> Contract:
        """What the model promises."""

    def run(self, images: Array) -> dict[str, Array]:
        """Every output by name, batch first."""


class _Takes(Protocol):
    def use_bank(self, bank: LiveBank, contract: Contract) -> None: ...


def ask(backend: Runs, seeds: Sequence[int], noise: int = 0) -> list[dict[str, Array]]:
    """Every output for each picture.

    Args:
        noise: grey levels by which the pixels of every second row are made brighter.
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


def hashed(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """`uint64 [count]`: splitmix64 (Steele et al. 2014) of a seed and the numbers 0, 1, ...

    A generator of numpy would do, but may give other numbers in another version (NEP 19).
    """
    state = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
    state *= np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


def probe_picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Discs on a plain ground, squares, or both: nothing in particular, and no two alike.

    Args:
        seed: below 2**20.
        height, width: in pixels.

    Returns:
        `uint8 [height, width, 3]` RGB.
    """
    share = _SHARES[seed % len(_SHARES)]
    values = hashed(seed, _VALUES)
    discs = _discs(values, height, width).astype(np.uint16)
    squares = _squares(values, _CELLS[seed % len(_CELLS)], height, width).astype(np.uint16)
    mixed: npt.NDArray[np.uint16] = (discs * (4 - share) + squares * share) // 4
    return mixed.astype(np.uint8)


def _discs(values: npt.NDArray[np.uint64], height: int, width: int) -> npt.NDArray[np.uint8]:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = values[:3] % np.uint64(256)
    y, x = np.mgrid[:height, :width]
    shorter = min(height, width)
    for disc in range(2 + int(values[3] % np.uint64(5))):
        at = values[4 + 6 * disc : 10 + 6 * disc]
        row, column, radius = (
            int(each % np.uint64(limit))
            for each, limit in zip(at, (height, width, shorter // 3 + 1), strict=False)
        )
        inside = (y - row) ** 2 + (x - column) ** 2 < (radius + shorter // 10) ** 2
        picture[inside] = at[3:] % np.uint64(256)
    return picture


def _squares(
    values: npt.NDArray[np.uint64], cells: int, height: int, width: int
) -> npt.NDArray[np.uint8]:
    colors = (values[: 3 * cells * cells] >> np.uint64(32)) % np.uint64(256)
    rows, columns = (np.arange(size) * cells // size for size in (height, width))
    picture: npt.NDArray[np.uint8] = colors.astype(np.uint8).reshape(cells, cells, 3)[rows]
    return picture[:, columns]


def as_input(contract: Contract, picture: npt.NDArray[np.uint8]) -> Array:
    """A picture of the input's size as the model's `image`, a batch of one."""
    if contract.input_type == "uint8":
        return picture[None]
    return np.asarray(contract.preprocessing.normalized(picture)[None], np.float32)


def input_size(contract: Contract) -> tuple[int, int]:
    """Height and width of the model's `image`."""
    shape = expected_tensors(contract)[0].shape
    height, width = shape[1:3] if contract.input_type == "uint8" else shape[2:4]
    return int(height), int(width)


def probe_bank(contract: Contract) -> LiveBank:
    """A bank of its own for a model that takes one as an input: the user's may change."""
    least, _, most = bank_lengths(contract)[BANK_EMBEDDING]
    rows = min(max(_BANK_ROWS, least), most)
    size = contract.bank.embedding_size
    # The sum of eight bytes is as good as normal.
    bytes_ = hashed(_BANK_SEED, rows * size).view(np.uint8).reshape(rows, size, 8)
    values = bytes_.sum(axis=2, dtype=np.float64) - 8 * 127.5
    embeddings = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    parts = np.array_split(np.arange(rows), min(_BANK_LABELS, rows))
    return LiveBank(
        embeddings,
        tuple(LabelRun(f"probe {number}", len(part)) for number, part in enumerate(parts)),
        ("",) * rows,
        np.zeros((rows, 32), np.uint8),
    )
