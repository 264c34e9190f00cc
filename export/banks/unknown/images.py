"""Images through a folded model, as rules for unknown images need them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import own_row_cosine
from foldcam.export.datasets import Dataset, Sample, load_dataset
from foldcam.export.datasets.answers import model_answers
from foldcam.export.datasets.folders import readable, tree_of
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

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
    """Images whose labels do not matter: any data set, all of it, or a folder of images alone."""
    loose = tree_of(path, recursive=False).images if path.is_dir() else []
    if loose and not (path / "images.txt").exists():
        tree = tree_of(path)
        samples = tuple(Sample(image, "") for image in tree.images)
        name = readable(path.resolve().name)
        return Dataset(name, "all", samples, (), left_out=tuple(tree.left_out))
    try:
        return load_dataset(path, "all")
    except FoldcamError:
        if path.is_dir() and not tree_of(path).images:
            raise FoldcamError(f"{path} holds no images.") from None
        raise


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
    found, labels = [], []
    skipped: list[tuple[str, str]] = []
    say = None if progress is None else partial(progress, stage)
    for sample, _, result in model_answers(model, dataset.samples, skipped, say):
        if result.error is not None:
            skipped.append((sample.name, result.error))
            continue
        found.append(result)
        labels.append(sample.label)
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


def label_notes(unknown: Answered, names: Sequence[str]) -> list[str]:
    """A sentence where images that were given as unknown have labels of the bank."""
    shared = [label for label in unknown.labels if label in names]
    if not shared:
        return []
    return [
        f"{len(shared)} of the images that were given as unknown have labels of the bank, such as "
        f"{shared[0]!r}: they count as unknown all the same."
    ]


def own_notes(own: npt.NDArray[np.bool_]) -> list[str]:
    """A sentence where images are rows of the bank themselves, as `in_bank` finds them."""
    if not own.any():
        return []
    return [f"{int(own.sum())} images are in the bank, by their embedding, and took no part."]


def in_bank(
    units: Floats, rows: npt.NDArray[np.floating], contract: Contract
) -> npt.NDArray[np.bool_]:
    """`bool [Q]`: which images are rows of the bank themselves, by their embeddings.

    Args:
        units: `float32 [Q, D]`, of norm 1.
        rows: `[N, D]`, of norm 1.
        contract: of the model whose rows they are.
    """
    same: npt.NDArray[np.bool_] = (units @ rows.T).max(axis=1) >= own_row_cosine(contract)
    return same
