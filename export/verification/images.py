"""The images on which models are compared: read one by one, spread over the labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.datasets import Dataset, SkippedFile, Split, load_dataset
from runtime.contract import Contract
from runtime.errors import FoldcamError
from runtime.images import IMAGE_SUFFIXES, list_images, read_image
from runtime.preprocess import Image

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
        paths: the files.
        skipped: those that could not be read, once they were asked for.
    """

    paths: Sequence[Path]
    skipped: list[SkippedFile] = field(default_factory=list)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.paths)

    def __iter__(self) -> Iterator[NamedImage]:
        """Read them in turn.

        Raises:
            FoldcamError: at the end, if none of them could be read.
        """
        self.skipped.clear()
        for path in self.paths:
            try:
                image = read_image(path)
            except FoldcamError as error:
                self.skipped.append(SkippedFile(path, str(error)))
                continue
            yield NamedImage(str(path), image)
        if len(self.skipped) == len(self.paths):
            reason = self.skipped[0].reason if self.skipped else "there are none"
            raise FoldcamError(f"None of the images could be read: {reason}")


def images_to_verify(
    dataset: Dataset | None, contract: Contract, most: int
) -> Iterable[NamedImage]:
    """Images of a data set, spread over its labels, or seeded noise without one.

    Args:
        dataset: labels play no part.
        contract: whose input size the noise has, about.
        most: how many at most.
    """
    if dataset is None:
        return noise_images(contract)
    return ImagesToVerify(spread([sample.path for sample in dataset.samples], most))


def image_paths(path: Path, split: Split) -> list[Path]:
    """The images of a data set, of a plain folder, or one image.

    Raises:
        FoldcamError: no such path, or no images in it.
    """
    if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES:
        return [path]
    is_plain = path.is_dir() and not (path / "images.txt").is_file()
    if is_plain and list_images(path, recursive=False):
        return list_images(path)
    return [sample.path for sample in load_dataset(path, split).samples]


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the paths, at equal steps."""
    step = max(1, len(paths) // most)
    return list(paths[::step][:most])


def noise_images(contract: Contract) -> list[NamedImage]:
    """The same noise every time, coarser than the network's input."""
    generator = np.random.default_rng(0)
    recipe = contract.preprocessing
    shape = (_NOISE_IMAGES, recipe.height // 8 + 1, recipe.width // 8 + 1, 3)
    noise = generator.integers(0, 256, shape, np.uint8)
    return [NamedImage(f"noise {number}", image) for number, image in enumerate(noise)]
