"""A continuous outcome: the kernel estimate, and the direction in which it rises.

With the similarities `s_j = e . e_j` to the bank's rows, `w = softmax(s / tau)` and their
values `y_j`, the estimate is `p = sum_j w_j y_j`. As a function of the cosines it rises along

    v = sum_j (dp/ds_j) e_j = (1 / tau) sum_j w_j (y_j - p) e_j

in the anchor's role only, as for every objective: through no normalisation, which would
remove the component along `e`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.objectives.directions import Directions
from foldcam.runtime.contract.schema import Transform
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

DEFAULT_KERNEL = "kernel:tau=0.1"
_BLOCK_NUMBERS = 1 << 22
"""Similarities held at once: 32 MiB in float64."""


@dataclass(frozen=True)
class KernelObjective:
    """The objective of a continuous outcome.

    Attributes:
        name: as on the command line.
        tau: temperature, in units of cosine.
        transform: what the kernel averages: values (`none`) or their logarithms (`log`).
    """

    name: str
    tau: float
    transform: Transform = "none"

    def transformed(self, values: Sequence[float]) -> Floats:
        """Values on the scale on which the kernel works.

        Args:
            values: at least one, finite.

        Returns:
            `float32 [N]`.
        """
        scaled = self.on_scale(values)
        if scaled.min() == scaled.max():
            raise FoldcamError(
                "All images have one value: an estimate needs images of different values, so "
                "add one."
            )
        return scaled

    def on_scale(self, values: Sequence[float]) -> Floats:
        """As `transformed`, for values that may be equal: others will stand beside them."""
        exact = np.asarray(values, np.float64)
        if self.transform == "log":
            if exact.min() <= 0:
                raise FoldcamError(
                    f"A value is {exact.min():g}, which has no logarithm: leave --log out, or "
                    "leave such images out."
                )
            exact = np.log(exact)
        scaled: Floats = exact.astype(np.float32)
        return scaled

    def directions(self, embeddings: Floats, values: Floats) -> Directions:
        """The direction in which each row's estimate from the other rows rises.

        Args:
            embeddings: `float32 [N, D]` of norm 1.
            values: `float32 [N]`, on the kernel's scale.

        Returns:
            Directions scaled to norm 1; a row whose estimate does not move has zeros.
        """
        if values.min() == values.max():
            raise FoldcamError("All rows have one value: no direction raises their estimate.")
        rows, exact = embeddings.astype(np.float64), values.astype(np.float64)
        directions = np.empty_like(embeddings)
        for block, weights in kernel_weights(embeddings, embeddings, self.tau, among=True):
            away = weights * (exact - (weights @ exact)[:, None])
            pulled = away @ rows
            norms = np.linalg.norm(pulled, axis=1, keepdims=True)
            directions[block] = np.divide(pulled, norms, out=np.zeros_like(pulled), where=norms > 0)
        return Directions(directions)


def parse_kernel(text: str, transform: Transform = "none") -> KernelObjective:
    """The objective that a command-line text names for a continuous outcome.

    Args:
        text: `kernel`, or with its temperature `kernel:tau=0.1`.
        transform: see `KernelObjective`.

    Raises:
        FoldcamError: another objective, or a temperature that cannot be used.
    """
    kind, _, rest = text.partition(":")
    if kind != "kernel":
        raise FoldcamError(
            f"Objective {text!r} compares labels, and a continuous outcome has values: use "
            f"{DEFAULT_KERNEL}."
        )
    name, _, number = (rest or "tau=0.1").partition("=")
    try:
        tau = float(number) if name == "tau" else 0.0
    except ValueError:
        tau = 0.0
    if not 1e-4 <= tau <= 1e4:
        raise FoldcamError(
            f"Objective {text!r}: give a temperature from 0.0001 to 10000, as in {DEFAULT_KERNEL}."
        )
    return KernelObjective(f"kernel:tau={tau:g}", tau, transform)


def kernel_weights(
    queries: Floats, bank: Floats, tau: float, *, among: bool = False
) -> Iterator[tuple[slice, Doubles]]:
    """`softmax(s / tau)` over the bank, for blocks of queries, so that none is held whole.

    Args:
        queries: `float32 [Q, D]` of norm 1.
        bank: `float32 [N, D]` of norm 1.
        among: the queries are the bank's own rows, each left out of its own weights
            (N >= 2).

    Yields:
        The block of queries and its weights `float64 [block, N]`, whose rows sum to 1.
    """
    size = max(1, _BLOCK_NUMBERS // len(bank))
    transposed = bank.T.astype(np.float64)
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        logits = queries[block].astype(np.float64) @ transposed / tau
        if among:
            own = np.arange(block.start, block.stop)
            logits[own - start, own] = -np.inf
        logits -= logits.max(axis=1, keepdims=True)
        weights = np.exp(logits)
        yield block, weights / weights.sum(axis=1, keepdims=True)


def kernel_estimates(
    queries: Floats, bank: Floats, values: Floats, tau: float, *, among: bool = False
) -> Doubles:
    """`float64 [Q]`: the kernel estimates, on the scale of `values`; see `kernel_weights`."""
    estimates = np.empty(len(queries))
    for block, weights in kernel_weights(queries, bank, tau, among=among):
        estimates[block] = weights @ values.astype(np.float64)
    return estimates
