"""Embeddings in 8 bits, four to an int32: TensorRT gathers int32 and refuses to gather int8.

A number is `low_d + step_d * code` with its dimension's own range and `code` in 0 .. 254. The
codes of dimension `i`, `W + i`, `2 W + i` and `3 W + i` share word `i` of `W = ceil(D / 4)`, so
that taking a word apart gives four runs of dimensions and no transposition:

    word = c0 + 256 c1 + 65536 (c2 + 256 (c3 - 127))

The greatest code is 254 and not 255 because the graph finds `c2 + 256 (c3 - 127)` as
`floor(float32(word) / 65536)`, and float32 rounds a word by up to 64: `c0 + 256 c1` must stay
below 65536 - 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]

PLANES = 4
TOP_CODE = 254
TOP_PLANE_OFFSET = 127
BASE = 256
"""One code's share of a word."""
PAIR = BASE * BASE
"""Two codes' share of a word."""


@dataclass(frozen=True)
class Codebook:
    """What a code stands for in each dimension.

    Attributes:
        low: `float32 [D]`, code 0.
        step: `float32 [D]`, from one code to the next.
    """

    low: Floats
    step: Floats

    @property
    def words(self) -> int:
        """W, words per row."""
        return -(-len(self.low) // PLANES)


def codebook_of(rows: Floats) -> Codebook:
    """The codebook that spans the range of `rows`, `float32 [N, D]`, in every dimension."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    # A dimension that never varies has codes of zero, whatever its step is.
    step = np.where(high > low, (high - low) / np.float32(TOP_CODE), 1)
    return Codebook(low.astype(np.float32), step.astype(np.float32))


def packed(rows: Floats, codebook: Codebook) -> Words:
    """`float32 [..., D]` -> `int32 [..., W]`."""
    codes = np.rint((rows - codebook.low) / codebook.step).clip(0, TOP_CODE).astype(np.int64)
    missing = PLANES * codebook.words - rows.shape[-1]
    codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    first, second, third, fourth = np.split(codes, PLANES, axis=-1)
    upper = third + BASE * (fourth - TOP_PLANE_OFFSET)
    words: Words = (first + BASE * second + PAIR * upper).astype(np.int32)
    return words


def unpacked(words: Words, codebook: Codebook) -> Floats:
    """`int32 [..., W]` -> `float32 [..., D]`: what the graph takes a word for."""
    wide = words.astype(np.int64)
    upper, lower = np.divmod(wide, PAIR)
    fourth, third = np.divmod(upper, BASE)
    second, first = np.divmod(lower, BASE)
    codes = np.concatenate([first, second, third, fourth + TOP_PLANE_OFFSET], axis=-1)
    codes = codes[..., : len(codebook.low)].astype(np.float32)
    rows: Floats = codebook.low + codebook.step * codes
    return rows
