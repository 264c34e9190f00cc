"""The two sets of labelled images: those of the bank, and those that maps are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foldcam.export.datasets import (
    Dataset,
    Sample,
    SingletonPolicy,
    handle_singletons,
    load_dataset,
)
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class Parts:
    """Images of the bank, and images to measure on."""

    training: Dataset  # what the bank is built from
    testing: Dataset  # labelled images of labels that the bank has, sorted by label
    notes: tuple[str, ...]  # how they came about, one sentence each


def read_parts(
    images: Path,
    test: Path | None = None,
    *,
    singletons: SingletonPolicy = "refuse",
    most: int | None = None,
    seed: int = 0,
    least_labels: int = 2,
) -> Parts:
    """Read both sets.

    Args:
        images: the training images; without `test` also those to measure on, by the data set's own
            split, or a seeded half of each label where it has none.
        most: measure on so many at most, spread over the labels.
    """
    training = load_dataset(images, "train")
    testing = load_dataset(test or images, "test")
    notes = []
    if test is None and {s.identity for s in training.samples} & {
        s.identity for s in testing.samples
    }:
        training = load_dataset(images, "all")
        kept = handle_singletons(training.samples, singletons)
        first, second = halves(kept, seed)
        training, testing = replace(training, samples=first), replace(training, samples=second)
        notes.append(
            f"{training.name} has no split of its own: a drawn half of each label is the bank, and "
            "the other half is measured."
        )
    else:
        training = replace(training, samples=handle_singletons(training.samples, singletons))
    return _measurable(training, testing, most, notes, least_labels)


def halves(samples: Sequence[Sample], seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """A seeded half of each label, the larger one first, and the other."""
    generator = np.random.default_rng(seed)
    first: list[Sample] = []
    second: list[Sample] = []
    for label in sorted({sample.label for sample in samples}):
        members = [sample for sample in samples if sample.label == label]
        order = generator.permutation(len(members))
        half = (len(members) + 1) // 2
        first += [members[n] for n in order[:half]]
        second += [members[n] for n in order[half:]]
    return tuple(first), tuple(second)


def _measurable(
    training: Dataset, testing: Dataset, most: int | None, notes: list[str], least_labels: int
) -> Parts:
    labels = {sample.label for sample in training.samples}
    if len(labels) < 2:
        raise FoldcamError(
            "All training images have one label: a contrast needs images of another label, so add "
            "some."
        )
    known = sorted(
        (sample for sample in testing.samples if sample.label in labels), key=lambda s: s.label
    )
    unknown = len(testing.samples) - len(known)
    if not known:
        raise FoldcamError(
            f"No image of {testing.name} has a label of the training images "
            f"({', '.join(sorted(labels)[:5])}{', ...' if len(labels) > 5 else ''}): give images "
            "of the same labels with --test."
        )
    if unknown:
        notes.append(f"{unknown} test images of labels that the bank does not have are left out.")
    if most is not None and most < len(known):
        notes.append(f"{most} of {len(known)} test images are measured (--most).")
        known = [known[place * len(known) // most] for place in range(most)]
    if len({sample.label for sample in known}) < least_labels:
        raise FoldcamError(
            f"All test images have the label {known[0].label!r}: the control needs the map of a "
            "picture of another label, so add some."
        )
    return Parts(training, replace(testing, samples=tuple(known)), tuple(notes))
