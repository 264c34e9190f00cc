"""What the float model answered to probe pictures: in the contract, to be compared on the device.

The pictures are not stored: `runtime.engine.canary.asking` makes the same bytes from a seed.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from foldcam.runtime.system.documents import Finite, KeyProblem, Natural, within

PROBES_VERSION = 1
"""Of pictures and answers; those of another version are left aside, as if there were none."""
MOST_PICTURES = 8
MOST_NUMBERS = 512
"""Of an embedding; a longer one is stored as a sketch, see `runtime.engine.canary.verdict`."""
MOST_CELLS = 8
"""Of a side of a map; a larger one is averaged over as many cells."""
MOST_SEED = (1 << 20) - 1
_MOST_NAMES = 16

ProbePrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ProbeAnswer:
    """What the float model answered to one picture.

    Attributes:
        embedding: the numbers, packed (see `packed`).
        length: the embedding's L2 norm.
        numbers: other outputs of one number by name: of `neighbor` and `similarity` the first.
        maps: outputs that are maps by name, averaged over cells and packed.
    """

    seed: Annotated[int, Meta(ge=0, le=MOST_SEED)]
    embedding: str
    length: Finite
    numbers: Annotated[dict[str, Finite], Meta(max_length=_MOST_NAMES)]
    maps: Annotated[dict[str, str], Meta(max_length=_MOST_NAMES)]

    def check(self, numbers: int, cells: int) -> None:
        """Look into what is packed."""
        maps = (("maps", text, cells) for text in self.maps.values())
        for name, text, wanted in (("embedding", self.embedding, numbers), *maps):
            try:
                count = len(unpacked(text))
            except ValueError as error:
                raise KeyProblem(name, f"holds no packed numbers ({error})") from None
            if count != wanted:
                raise KeyProblem(name, f"holds {count} numbers where {wanted} are needed")


@dataclass(frozen=True)
class Canary:
    """Seeded probe pictures and what the float model answered to them."""

    precision: ProbePrecision
    answers: Annotated[tuple[ProbeAnswer, ...], Meta(min_length=1, max_length=MOST_PICTURES)]

    def check(self, embedding_size: int, map_size: tuple[int, int]) -> None:
        """Look into what is packed."""
        cells = min(map_size[0], MOST_CELLS) * min(map_size[1], MOST_CELLS)
        for at, answer in enumerate(self.answers):
            with within(f"answers[{at}]"):
                answer.check(min(embedding_size, MOST_NUMBERS), cells)


class ProbesVersion(Struct, frozen=True):
    """What is read of the section before the rest."""

    version: Natural


def packed(values: npt.NDArray[np.floating]) -> str:
    """Finite numbers as text: base64 of their greatest magnitude and of their shares of it.

    float32 and float16, little-endian, so that a cosine is exact to 1e-6.
    """
    flat = np.asarray(values, np.float64).ravel()
    scale = float(np.abs(flat).max(initial=0.0)) or 1.0
    content = np.array([scale], "<f4").tobytes() + (flat / scale).astype("<f2").tobytes()
    return base64.b64encode(content).decode("ascii")


def unpacked(text: str) -> npt.NDArray[np.float64]:
    """The numbers of `packed`, flat."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if len(content) < 6 or len(content) % 2:
        raise ValueError(f"{len(content)} bytes")
    scale = float(np.frombuffer(content, "<f4", 1)[0])
    shares = np.frombuffer(content, "<f2", offset=4).astype(np.float64)
    if not (np.isfinite(scale) and np.isfinite(shares).all()):
        raise ValueError("a number that is not finite")
    return shares * scale
