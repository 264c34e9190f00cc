"""Labelled images through a folded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from foldcam.export.datasets import Sample
from foldcam.export.datasets.reading import Picture, read_picture
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.errors import FoldcamError

_BATCH = 8


def model_answers(
    model: FoldedModel,
    samples: Sequence[Sample],
    skipped: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Sample, Picture, Result]]:
    """Each image that can be read, with what the model says of it.

    Args:
        skipped: takes those that cannot be read, with the reason.
        progress: called after each batch with images done and images in all.
    """
    for start in range(0, len(samples), _BATCH):
        read = []
        for sample in samples[start : start + _BATCH]:
            try:
                read.append((sample, read_picture(sample)))
            except FoldcamError as error:
                skipped.append((sample.name, str(error)))
        results = model.run_batch([picture.image for _, picture in read])
        for (sample, picture), result in zip(read, results, strict=True):
            yield sample, picture, result
        if progress is not None:
            progress(min(start + _BATCH, len(samples)), len(samples))
