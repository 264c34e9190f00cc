"""The images on which models are compared: read one by one, spread over the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foldcam.export.datasets import Dataset, Sample, SkippedFile, Split, load_dataset
from foldcam.export.datasets.folders import summary, tree_of
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.files import IMAGE_SUFFIXES
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError

_NOISE_IMAGES = 16


@dataclass(frozen=True, eq=False)
class NamedImage:
    """An image and what to call it: `uint8 [H, W, 3]` RGB of any size."""

    name: str
    image: Image


@dataclass
class ImagesToVerify:
    """Files that are read when they are asked for; unreadable ones are named, not fatal.

    Attributes:
        samples: the images; labels play no part.
        skipped: those that could not be read, once they were asked for.
    """

    samples: Sequence[Sample]
    skipped: list[SkippedFile] = field(default_factory=list)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.samples)

    def __iter__(self) -> Iterator[NamedImage]:
        """Read them in turn."""
        self.skipped.clear()
        for sample in self.samples:
            try:
                image = read_picture(sample).image
            except FoldcamError as error:
                self.skipped.append(SkippedFile(sample.path, str(error)))
                continue
            yield NamedImage(sample.name, image)
        if len(self.skipped) == len(self.samples):
            reason = self.skipped[0].reason if self.skipped else "there are none"
            raise FoldcamError(f"None of the images could be read: {reason}")


def images_to_verify(
    dataset: Dataset | None, contract: Contract, most: int
) -> Iterable[NamedImage]:
    """Images of a data set, spread over its labels, or seeded noise without one.

    Args:
        dataset: labels play no part.
        contract: whose input size the noise has, about.
        most: the largest number of images.
    """
    if dataset is None:
        return noise_images(contract)
    return ImagesToVerify(spread(dataset.samples, most))


def images_of(path: Path, split: Split) -> Dataset:
    """The images of a data set, of a plain folder, or one image; without labels in the last two."""
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return Dataset(path.name, split, (Sample(path, ""),))
    is_plain = path.is_dir() and not (path / "images.txt").is_file()
    if is_plain and tree_of(path, recursive=False).images:
        tree = tree_of(path)
        samples = tuple(Sample(image, "") for image in tree.images)
        notes = tuple(summary(tree.left_out, path))
        return Dataset(path.name, split, samples, notes, tuple(tree.left_out))
    return load_dataset(path, split)


def spread(samples: Sequence[Sample], most: int) -> list[Sample]:
    """At most `most` of the samples, at equal steps."""
    step = max(1, len(samples) // most)
    return list(samples[::step][:most])


def noise_images(contract: Contract) -> list[NamedImage]:
    """The same noise every time, coarser than the network's input."""
    generator = np.random.default_rng(0)
    recipe = contract.preprocessing
    shape = (_NOISE_IMAGES, recipe.height // 8 + 1, recipe.width // 8 + 1, 3)
    noise = generator.integers(0, 256, shape, np.uint8)
    return [NamedImage(f"noise {number}", image) for number, image in enumerate(noise)]
