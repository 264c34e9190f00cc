"""Images through a folded model, as rules for unknown images need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.export.datasets import Dataset, Sample, load_dataset
from foldcam.export.datasets.folders import readable, tree_of
from foldcam.export.datasets.reading import read_picture
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.model import FoldedModel

_BATCH = 8
# Cosine from which a row is the image's own; a bank of smaller numbers is less exact.
_SAME_ROW = {True: 0.99999, False: 0.999}

Progress = Callable[[str, int, int], None]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answered:
    """What a model says of images.

    Attributes:
        units: `float32 [Q, D]`, their embeddings, of norm 1.
        labels: their own labels.
        similarities: `float64 [Q]`, to the nearest row.
        runner_ups: `float64 [Q]`, to the nearest row of another label; None where the model
            does not say.
        skipped: images that could not be read or have no answer, with the reason.
    """

    units: Floats
    labels: tuple[str, ...]
    similarities: npt.NDArray[np.float64]
    runner_ups: npt.NDArray[np.float64] | None
    skipped: tuple[tuple[str, str], ...]

    def kept(self, mask: npt.NDArray[np.bool_]) -> Answered:
        """Those of a mask `[Q]`."""
        labels = tuple(label for label, keep in zip(self.labels, mask, strict=True) if keep)
        others = None if self.runner_ups is None else self.runner_ups[mask]
        return Answered(self.units[mask], labels, self.similarities[mask], others, self.skipped)


def any_images(path: Path) -> Dataset:
    """Images whose labels do not matter: any data set, all of it, or a folder of images alone.

    Raises:
        FoldcamError: there are none.
    """
    loose = tree_of(path, recursive=False).images if path.is_dir() else []
    if loose and not (path / "images.txt").exists():
        tree = tree_of(path)
        samples = tuple(Sample(image, "") for image in tree.images)
        name = readable(path.resolve().name)
        return Dataset(name, "all", samples, (), left_out=tuple(tree.left_out))
    return load_dataset(path, "all")


def answered(
    model: FoldedModel, dataset: Dataset, stage: str, progress: Progress | None = None
) -> Answered:
    """Run a folded model of labels over images.

    Args:
        model: the model.
        dataset: the images.
        stage: what they are, for `progress`, which is called with it, the images done, and all.

    Raises:
        FoldcamError: none of them has an answer.
    """
    found, labels, skipped = [], [], []
    samples = dataset.samples
    for start in range(0, len(samples), _BATCH):
        images, read = [], []
        for sample in samples[start : start + _BATCH]:
            try:
                images.append(read_picture(sample).image)
                read.append(sample)
            except FoldcamError as error:
                skipped.append((sample.name, str(error)))
        for result, sample in zip(model.run_batch(images), read, strict=True):
            if result.error is not None:
                skipped.append((sample.name, result.error))
                continue
            found.append(result)
            labels.append(sample.label)
        if progress:
            progress(stage, min(start + _BATCH, len(samples)), len(samples))
    if not found:
        raise FoldcamError(f"No image of {dataset.name} has an answer; the first: {skipped[0][1]}")
    embeddings = np.stack([result.embedding for result in found])
    runner_ups = [result.runner_up_similarity for result in found]
    return Answered(
        units=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        labels=tuple(labels),
        similarities=np.asarray([result.similarities[0] for result in found], np.float64),
        runner_ups=None if runner_ups[0] is None else np.asarray(runner_ups, np.float64),
        skipped=tuple(skipped),
    )


def in_bank(units: Floats, rows: Floats, exact: bool) -> npt.NDArray[np.bool_]:
    """`bool [Q]`: which images are rows of the bank themselves, by their embeddings.

    Args:
        units: `float32 [Q, D]`, of norm 1.
        rows: `float32 [N, D]`, of norm 1.
        exact: whether the bank holds its rows in float32.
    """
    same: npt.NDArray[np.bool_] = (units @ rows.T).max(axis=1) >= _SAME_ROW[exact]
    return same
