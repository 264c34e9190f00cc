"""What the float model answered to probe pictures: in the contract, to be compared on the device.

The pictures are not stored: `runtime.canary.pictures` makes the same bytes everywhere from a seed.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.fields import Fields

PROBES_VERSION = 1
"""Of pictures and answers; those of another version are left aside, as if there were none."""
MOST_PICTURES = 8
MOST_NUMBERS = 512
"""Of an embedding; a longer one is stored as a sketch, see `runtime.canary.answers`."""
MOST_CELLS = 8
"""Of a side of a map; a larger one is averaged over as many cells."""
MOST_SEED = (1 << 20) - 1
_MOST_NAMES = 16

ProbePrecision = Literal["fp32", "fp16", "int8"]
PROBE_PRECISIONS: tuple[ProbePrecision, ...] = get_args(ProbePrecision)


@dataclass(frozen=True)
class ProbeAnswer:
    """What the float model answered to one picture.

    Attributes:
        seed: of the picture.
        embedding: the numbers, packed (see `packed`).
        length: the embedding's L2 norm.
        numbers: other outputs of one number by name: of `neighbor` and `similarity` the first.
        maps: outputs that are maps by name, averaged over cells and packed.
    """

    seed: int
    embedding: str
    length: float
    numbers: dict[str, float]
    maps: dict[str, str]


@dataclass(frozen=True)
class Canary:
    """Seeded probe pictures and what the float model answered to them.

    Attributes:
        precision: the least precise type that the file computes in.
        answers: one per picture.
    """

    precision: ProbePrecision
    answers: tuple[ProbeAnswer, ...]

    def document(self) -> dict[str, Any]:
        """For the metadata."""
        return {
            "version": PROBES_VERSION,
            "precision": self.precision,
            "answers": [vars(answer) for answer in self.answers],
        }


def packed(values: npt.NDArray[np.floating]) -> str:
    """Finite numbers as text: base64 of their greatest magnitude and of their shares of it.

    float32 and float16, little-endian, so that a cosine is exact to 1e-6.
    """
    flat = np.asarray(values, np.float64).ravel()
    scale = float(np.abs(flat).max(initial=0.0)) or 1.0
    content = np.array([scale], "<f4").tobytes() + (flat / scale).astype("<f2").tobytes()
    return base64.b64encode(content).decode("ascii")


def unpacked(text: str) -> npt.NDArray[np.float64]:
    """The numbers of `packed`, flat.

    Raises:
        ValueError: it is something else.
    """
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


def canary_from(fields: Fields, embedding_size: int, map_size: tuple[int, int]) -> Canary | None:
    """The section of a document; None where it is that of another version of foldcam.

    Args:
        fields: the section.
        embedding_size: `D` of the model.
        map_size: height and width of its maps.

    Raises:
        FoldcamError: a value is missing or wrong.
    """
    if fields.integer("version") != PROBES_VERSION:
        return None
    cells = min(map_size[0], MOST_CELLS) * min(map_size[1], MOST_CELLS)
    numbers = min(embedding_size, MOST_NUMBERS)
    answers = tuple(
        _answer(each, numbers, cells) for each in fields.sections("answers", MOST_PICTURES)
    )
    if not answers:
        fields.fail("answers", "are empty")
    return Canary(fields.choice("precision", PROBE_PRECISIONS), answers)


def _answer(fields: Fields, size: int, cells: int) -> ProbeAnswer:
    numbers, maps = fields.section("numbers"), fields.texts("maps")
    answer = ProbeAnswer(
        seed=fields.integer("seed", high=MOST_SEED),
        embedding=fields.text("embedding"),
        length=fields.number("length"),
        numbers={name: numbers.number(name) for name in numbers.names(_MOST_NAMES)},
        maps=maps,
    )
    packs = [
        ("embedding", answer.embedding, size),
        *(("maps", each, cells) for each in maps.values()),
    ]
    for name, text, wanted in packs:
        try:
            count = len(unpacked(text))
        except ValueError as error:
            fields.fail(name, f"holds no packed numbers ({error})")
        if count != wanted:
            fields.fail(name, f"holds {count} numbers where {wanted} are needed")
    return answer
