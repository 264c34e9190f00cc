"""Whether a library's answers to the probe pictures are those of the float model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.canary import (
    MOST_CELLS,
    MOST_NUMBERS,
    Canary,
    ProbeAnswer,
    ProbePrecision,
    packed,
    unpacked,
)
from foldcam.runtime.contract.schema import (
    CONTRAST,
    CONTRIBUTION,
    EMBEDDING,
    ESTIMATE,
    HEATMAP,
    HEATMAP_LOWER,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
)
from foldcam.runtime.engine.canary.asking import hashed

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

NUMBERS = (NEIGHBOR, SIMILARITY, RUNNER_UP, RUNNER_UP_SIMILARITY, ESTIMATE)
MAPS = (HEATMAP, HEATMAP_LOWER, CONTRIBUTION, CONTRAST)
_SKETCH_SEED = (1 << 20) + 1


@dataclass(frozen=True)
class ProbeLimits:
    """What a right library may differ by.

    Attributes:
        apart: the least cosine of what sets the pictures' embeddings apart, by which an embedding
            that is always the same is known.
        spread: the mean square of that from which on it is compared, of embeddings of length 1.
        map: the least agreement of a map, see `agreement`.
    """

    cosine: float
    apart: float
    spread: float
    map: float
    similarity: float
    estimate: float


LIMITS: dict[ProbePrecision, ProbeLimits] = {
    "fp32": ProbeLimits(0.99, 0.9, 1e-3, 0.95, 0.01, 0.02),
    "fp16": ProbeLimits(0.98, 0.8, 1e-3, 0.9, 0.02, 0.05),
    # A map may lose what the gate of `foldcam calibrate` allows one image in twenty.
    "int8": ProbeLimits(0.9, 0.5, 0.2, 0.9, 0.1, 0.3),
}
"""By the least precise type that a file computes in; docs/tensorrt.md says how they were chosen."""
_LENGTHS = 0.8, 1.25
"""Of an embedding, as a multiple of the float model's."""
_ALIKE = 0.02
"""Maps that differ by no more anywhere, as a share of the greatest value, are equal."""
_LITTLE_EVIDENCE = 0.01


@dataclass(frozen=True)
class ProbeVerdict:
    """What came of the probe pictures.

    Attributes:
        map_agreement: of the maps, the least; None where none could be compared.
    """

    pictures: int
    precision: ProbePrecision
    cosine: float
    map_agreement: float | None
    failures: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether everything is within the limits."""
        return not self.failures

    def figures(self) -> str:
        """The numbers in words."""
        maps = "" if self.map_agreement is None else f", maps {self.map_agreement:.4f}"
        return f"{self.pictures} probe pictures, embedding {self.cosine:.5f}{maps} at worst"


def judge(canary: Canary, found: Sequence[Mapping[str, Array]], *, scores: bool) -> ProbeVerdict:
    """Compare a library's outputs with the float model's answers.

    Args:
        found: every output by name for each picture, in their order.
        scores: whether similarities are a classifier's scores, which have no unit.
    """
    precision, count = canary.precision, len(found)
    limits = LIMITS[precision]
    if not all(np.isfinite(output).all() for outputs in found for output in outputs.values()):
        said = f"it returns values that are not finite for {count} probe pictures"
        return ProbeVerdict(count, precision, float("nan"), None, (said,))
    expected = np.stack([unpacked(answer.embedding) for answer in canary.answers])
    got = np.stack([sketch(outputs[EMBEDDING][0].astype(np.float64)) for outputs in found])
    cosine = min(_cosine(*pair) for pair in zip(expected, got, strict=True))
    failures = [*_embedding_failures(expected, got, cosine, limits), *_lengths(canary, found)]
    pairs = list(zip(canary.answers, found, strict=True))
    same = [_same(answer, outputs, NEIGHBOR) for answer, outputs in pairs]
    failures += _number_failures(pairs, same, limits, scores)
    agreements = [
        value
        for (answer, outputs), rows in zip(pairs, same, strict=True)
        if rows
        for value in map_agreements(answer, outputs)
    ]
    least = min(agreements, key=lambda each: each[1], default=None)
    if least is not None and not least[1] >= limits.map:
        failures.append(
            f"its map {least[0]} agrees with the float model's by {least[1]:.4f}, below "
            f"{limits.map:g}"
        )
    return ProbeVerdict(
        count, precision, cosine, None if least is None else least[1], tuple(failures)
    )


def agreement(expected: Doubles, found: Doubles) -> float:
    """How alike two maps are: 1 where equal, 0 where unrelated, below where opposite.

    Lin's concordance correlation (1989), which falls below Pearson's where scale or offset differ.
    """
    scale = np.abs(expected).max()
    if np.abs(expected - found).max() <= _ALIKE * scale:
        return 1.0
    a, b = expected - expected.mean(), found - found.mean()
    spread = (a * a).mean() + (b * b).mean() + (expected.mean() - found.mean()) ** 2
    return float(2 * (a * b).mean() / spread) if spread > 0 else 0.0


def _cosine(a: Doubles, b: Doubles) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not (a.any() or b.any()) else 0.0
    return float(a @ b) / norms


def _embedding_failures(
    expected: Doubles, got: Doubles, cosine: float, limits: ProbeLimits
) -> Iterator[str]:
    if not cosine >= limits.cosine:
        yield (
            f"the cosine of its embeddings to the float model's is {cosine:.4f}, below "
            f"{limits.cosine:g}"
        )
        return
    units = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-30)
             for each in (expected, got)]  # fmt: skip
    wanted, have = ((unit - unit.mean(axis=0)).ravel() for unit in units)
    # Pictures that the network itself hardly tells apart say nothing here.
    if float(wanted @ wanted) / len(expected) < limits.spread:
        return
    apart = _cosine(wanted, have)
    if not apart >= limits.apart:
        yield (
            f"its embeddings of different pictures are too alike: what sets them apart has the "
            f"cosine {apart:.4f} to the float model's, below {limits.apart:g}"
        )


def _lengths(canary: Canary, found: Sequence[Mapping[str, Array]]) -> Iterator[str]:
    for answer, outputs in zip(canary.answers, found, strict=True):
        length = float(np.linalg.norm(outputs[EMBEDDING][0].astype(np.float64)))
        if not _LENGTHS[0] * answer.length <= length <= _LENGTHS[1] * answer.length:
            yield (
                f"its embedding has the length {length:.4g} where the float model's has "
                f"{answer.length:.4g}"
            )
            return


def _same(answer: ProbeAnswer, outputs: Mapping[str, Array], name: str) -> bool:
    return name not in answer.numbers or answer.numbers[name] == number(outputs[name])


def _number_failures(
    pairs: Sequence[tuple[ProbeAnswer, Mapping[str, Array]]],
    same: Sequence[bool],
    limits: ProbeLimits,
    scores: bool,
) -> Iterator[str]:
    for name in (SIMILARITY, RUNNER_UP_SIMILARITY, ESTIMATE):
        for (answer, outputs), rows in zip(pairs, same, strict=True):
            if name not in answer.numbers or (name == RUNNER_UP_SIMILARITY and not rows):
                continue
            wanted, have = answer.numbers[name], number(outputs[name])
            allowed = limits.estimate * max(abs(wanted), 1e-12)
            if name != ESTIMATE:
                allowed = limits.similarity * (max(1.0, answer.length) if scores else 1.0)
            if not abs(wanted - have) <= allowed:
                yield f"its {name} is {have:.4g} where the float model's is {wanted:.4g}"
                break
    # Rows as near as one another may change places: but hardly for every picture.
    if not any(same) and limits is not LIMITS["int8"]:
        yield "it finds other bank rows than the float model for every picture"


def map_agreements(
    answer: ProbeAnswer, outputs: Mapping[str, Array]
) -> Iterator[tuple[str, float]]:
    """The agreement of each map that has something to say, by name.

    Args:
        outputs: for the same picture, by the same bank row.
    """
    maps = {name: unpacked(text) for name, text in answer.maps.items() if name in outputs}
    blank = not maps[HEATMAP].any() if HEATMAP in maps else True
    if CONTRIBUTION in maps:
        signed = maps[CONTRIBUTION]
        # A heatmap stretches the rounding errors of a map without evidence to its full range.
        blank |= bool(signed.max() <= _LITTLE_EVIDENCE * np.abs(signed).max())
    for name, map_ in maps.items():
        if (name == HEATMAP and blank) or not map_.any():
            continue
        if name == CONTRAST and not _same(answer, outputs, RUNNER_UP):
            continue
        yield name, agreement(map_, coarse(outputs[name]))


def answer_of(seed: int, outputs: Mapping[str, Array]) -> ProbeAnswer:
    """What a model answered, as a contract holds it."""
    embedding = outputs[EMBEDDING][0].astype(np.float64)
    return ProbeAnswer(
        seed=seed,
        embedding=packed(sketch(embedding)),
        length=float(np.linalg.norm(embedding)),
        numbers={name: number(outputs[name]) for name in NUMBERS if name in outputs},
        maps={name: packed(coarse(outputs[name])) for name in MAPS if name in outputs},
    )


def number(output: Array) -> float:
    """The first number of an output for one picture."""
    return float(output.reshape(-1)[0])


def sketch(embedding: Doubles) -> Doubles:
    """An embedding in at most `MOST_NUMBERS` numbers that keep cosines to a few percent of 1 - c.

    Longer ones are added up in as many sums, with signs, both by a hash of the place: the count
    sketch (Charikar et al. 2002), whose dot products are those of the vectors on average.
    """
    if len(embedding) <= MOST_NUMBERS:
        return embedding
    places = hashed(_SKETCH_SEED, len(embedding))
    signs = np.where(places & np.uint64(1), 1.0, -1.0)
    sums = (places >> np.uint64(1)) % np.uint64(MOST_NUMBERS)
    return np.bincount(sums.astype(np.int64), signs * embedding, MOST_NUMBERS).astype(np.float64)


def coarse(output: Array) -> Doubles:
    """The map `[1, 1, h, w]` of one picture averaged over at most 8 x 8 cells, flat."""
    map_ = output[0, 0].astype(np.float64)
    for axis in (0, 1):
        size = map_.shape[axis]
        cells = min(size, MOST_CELLS)
        starts = np.arange(cells) * size // cells
        widths = np.diff(np.append(starts, size))
        sums = np.add.reduceat(map_, starts, axis=axis)
        map_ = sums / (widths[:, None] if axis == 0 else widths)
    flat: Doubles = map_.ravel()
    return flat
