"""Which part of a data set an image belongs to: one understanding for folders, CSV and CUB."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from foldcam.export.datasets.samples import Part, Reading, Sample, Split
from foldcam.runtime.system.text import quantity

_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
KNOWN = "train or training, val, valid, validation or dev, test or testing"
_SHOWN = 8


def part_named(text: str) -> Part | None:
    """The part that a folder's name or a cell names, in any case and with blanks around it."""
    return _NAMES.get(text.strip().casefold())


def parts_taken(split: Split, present: Iterable[Part]) -> set[Part]:
    """The parts of a data set that a split stands for.

    Where there is no test part, the validation part is what was held out of training.
    """
    there = set(present)
    if split == "all":
        return there
    if split == "test" and "test" not in there:
        return there & {"valid"}
    return {part for part in there if part == split}


def take(reading: Reading, split: Split) -> tuple[list[Sample], list[str]]:
    """The samples of a split, and a line on how the parts were understood.

    A data set without parts is all one part, which is taken whatever is asked for. So are
    samples of no part where others have one.
    """
    samples = [sample for _, sample in reading.samples]
    if not reading.names:
        return samples, []
    wanted = parts_taken(split, reading.names)
    taken = [sample for part, sample in reading.samples if part is None or part in wanted]
    return taken, [_line(reading, split, wanted, taken)]


def parts_text(reading: Reading) -> str:
    """`Train/ (2 labels, 8 images), test/ (2 labels, 4 images)`."""
    return ", ".join(
        f"{name} ({_counted(sample for part, sample in reading.samples if part == each)})"
        for each, name in (
            (part, " and ".join(names)) for part, names in sorted_parts(reading.names)
        )
    )


def sorted_parts(names: dict[Part, list[str]]) -> list[tuple[Part, list[str]]]:
    """Training first, then validation, then test."""
    order: tuple[Part, ...] = ("train", "valid", "test")
    return [(part, names[part]) for part in order if part in names]


def labels_text(samples: Sequence[Sample]) -> str:
    """`'gull' (6 images), 'owl' (4 images)`, the first few."""
    counts = Counter(sample.label for sample in samples)
    shown = [f"{label!r} ({quantity(n, 'image')})" for label, n in sorted(counts.items())[:_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _line(reading: Reading, split: Split, wanted: set[Part], taken: list[Sample]) -> str:
    chosen = " and ".join(part for part, _ in sorted_parts(reading.names) if part in wanted)
    why = ""
    if split == "test" and wanted == {"valid"}:
        why = ", since there is no test part"
    text = f"{parts_text(reading)} are splits, of which {chosen or 'none'} was taken{why}"
    if len(reading.names) == 1:
        text = f"{parts_text(reading)} is a split, and {chosen or 'nothing'} was taken{why}"
    elif len(wanted) > 1:
        text = f"{parts_text(reading)} are splits, and all of them were taken"
    alone = sum(part is None for part, _ in reading.samples)
    if alone:
        text += f", and {quantity(alone, 'image')} without a split, which belong to every part"
    if taken:
        text += f"; labels: {labels_text(taken)}"
    return f"{text}."


def _counted(samples: Iterable[Sample]) -> str:
    labels = [sample.label for sample in samples]
    return f"{quantity(len(set(labels)), 'label')}, {quantity(len(labels), 'image')}"
