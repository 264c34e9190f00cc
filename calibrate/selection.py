"""Which images calibrate, choose and judge: stratified over the labels, seeded, disjoint.

What is chosen on images looks better on them than it is, so the images that judge choose
nothing: layers to keep in float are chosen on images of their own, from the side that
calibrates, and one candidate is judged once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.export.datasets import Sample, SkippedFile, load_dataset
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.system.errors import FoldcamError

FEWEST = 8
"""Images below which neither ranges nor the gate's figures mean anything."""
_BANDS = 8


@dataclass(frozen=True)
class Selection:
    """Samples of the three parts, which share none, and how the data set was understood."""

    calibration: tuple[Sample, ...]
    choice: tuple[Sample, ...]
    gate: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images as the network gets them.

    Attributes:
        samples: those that could be read, in their order.
        resized: `uint8 [n, height, width, 3]` RGB at the input size.
        affines: from its pixels to those of the file.
        sha256: of the files' bytes and labels, in their order.
        skipped: files that could not be read.
    """

    samples: tuple[Sample, ...]
    resized: npt.NDArray[np.uint8]
    affines: tuple[Affine, ...]
    sha256: str
    skipped: tuple[SkippedFile, ...]


def select(
    data: Path,
    count: int,
    choice_count: int,
    gate_count: int,
    seed: int,
    *,
    continuous: bool = False,
) -> Selection:
    """Choose images of a data set.

    Where the data set has a training and a test part, the second judges and the first does the
    rest; otherwise each label's images are dealt out to both. A third of the first at least is
    for choosing, if so many are wanted.

    Args:
        data: as `export.datasets.load_dataset` reads it.
        count: calibration images at most.
        choice_count: images to choose by at most.
        gate_count: gate images at most.
        seed: equal seeds choose equal images.
        continuous: whether labels are numbers, which are then stratified by bands of them.
    """
    dataset = load_dataset(data, "train", continuous=continuous)
    train = dataset.samples
    test = _test_part(data, continuous)
    if test is None or {s.identity for s in test} & {s.identity for s in train}:
        # One part only. Half of each label at most judges, and never more than was asked for.
        dealt = _round_robin(train, seed)
        most = max(1, len(dealt) // 2)
        gate = dealt[: min(gate_count, most)]
        rest = dealt[len(gate) :]
    else:
        gate, rest = _round_robin(test, seed)[:gate_count], _round_robin(train, seed)
    choosing = min(choice_count, max(FEWEST, len(rest) // 3, len(rest) - count))
    choice, chosen = rest[:choosing], rest[choosing:][:count]
    for what, samples in (
        ("to calibrate on", chosen),
        ("to choose by", choice),
        ("to judge by", gate),
    ):
        if len(samples) < FEWEST:
            raise FoldcamError(
                f"{data} gives {len(samples)} images {what}, and at least {FEWEST} are needed: "
                "add images, or name the whole data set."
            )
        if not continuous and len({sample.label for sample in samples}) < 2:
            raise FoldcamError(
                f"{data} gives images {what} of one label only ({samples[0].label!r}), on which "
                "nobody can be mistaken for another: add images of other labels."
            )
    order = {sample.identity: place for place, sample in enumerate((*train, *(test or ())))}

    def ordered(samples: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(sorted(samples, key=lambda sample: order[sample.identity]))

    return Selection(ordered(chosen), ordered(choice), ordered(gate), dataset.notes)


def read_pictures(samples: Sequence[Sample], preprocessing: Preprocessing) -> Pictures:
    """Read images and bring them to the input size, as the device does."""
    read, resized, affines, skipped = [], [], [], []
    digest = hashlib.sha256()
    for sample in samples:
        try:
            picture = read_picture(sample)
        except FoldcamError as error:
            skipped.append(SkippedFile(sample.path, str(error)))
            continue
        image, affine = preprocessing.resized(picture.image)
        digest.update(bytes.fromhex(picture.sha256) + sample.label.encode() + b"\0")
        read.append(sample)
        resized.append(image)
        affines.append(affine)
    if len(read) < FEWEST:
        reason = f" ({skipped[0].reason})" if skipped else ""
        raise FoldcamError(
            f"Only {len(read)} of {len(samples)} images can be read{reason}; at least {FEWEST} "
            "are needed."
        )
    stacked = np.stack(resized)
    if not any(np.ptp(image.reshape(-1, 3), axis=0).any() for image in stacked):
        raise FoldcamError(
            "Every image is of one colour, which says nothing about the activations' ranges: give "
            "photographs like those that the device will see."
        )
    return Pictures(tuple(read), stacked, tuple(affines), digest.hexdigest(), tuple(skipped))


def _test_part(data: Path, continuous: bool) -> tuple[Sample, ...] | None:
    try:
        return load_dataset(data, "test", continuous=continuous).samples
    except FoldcamError:
        return None


def _round_robin(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Shuffled within each label, then one of every label, again and again."""
    generator = np.random.default_rng(seed)
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.label, []).append(sample)
    values = [sample.value for sample in samples if sample.value is not None]
    if values and len(values) == len(samples):
        bands = np.quantile(values, np.linspace(0, 1, _BANDS + 1)[1:-1])
        groups = {}
        for sample, value in zip(samples, values, strict=True):
            groups.setdefault(int(np.searchsorted(bands, value)), []).append(sample)
    shuffled = [
        [group[place] for place in generator.permutation(len(group))] for group in groups.values()
    ]
    longest = max((len(group) for group in shuffled), default=0)
    return [group[turn] for turn in range(longest) for group in shuffled if turn < len(group)]
