"""The frozen front's output for every view and mosaic, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.models.training.trainee import Trainee
from foldcam.export.models.training.views import MAX_CELLS, draw_mosaic, region_masks, view
from foldcam.runtime.images.preprocess import Image, Preprocessing
from foldcam.runtime.system.files import atomic_path, user_errors_for

StageProgress = Callable[[str, int, int], None]
Halves = npt.NDArray[np.float16]

_BATCH = 16


@dataclass(frozen=True)
class FrontCache:
    """What the learning part is fed.

    Attributes:
        views: per value of the front, `float16 [V, N, ...]`.
        mosaics: per value of the front, `float16 [M, ...]`.
        masks: `float32 [M, 9, h, w]`, how much of each feature-map cell lies in
            each cell of the mosaic.
        subjects: `int64 [M, 9]`, index of the photograph in each cell, -1 beyond.
    """

    views: list[Halves]
    mosaics: list[Halves]
    masks: npt.NDArray[np.float32]
    subjects: npt.NDArray[np.int64]


def build_front_cache(
    trainee: Trainee,
    preprocessing: Preprocessing,
    images: Sequence[Image],
    classes: npt.NDArray[np.int64],
    folder: Path,
    *,
    views: int,
    mosaics: int,
    seed: int,
    progress: StageProgress,
) -> FrontCache:
    """Run the front over all views and mosaics, or go on where an interruption left off.

    Args:
        images: the photographs, `uint8 [H, W, 3]` RGB.
        classes: `int64 [N]`; mosaics are of different classes.
        mosaics: in all; a quarter of them 3 x 3, the others 2 x 2.
    """
    with user_errors_for(folder / "cache"):
        folder.mkdir(parents=True, exist_ok=True)
    stored: list[list[Halves]] = []
    for number in range(views):

        def shown(index: int, number: int = number) -> Image:
            generator = np.random.default_rng([seed, 0, number, index])
            return preprocessing.resized(view(images[index], number, generator))[0]

        def embedded(done: int, number: int = number) -> None:
            progress("views", number * len(images) + done, views * len(images))

        stored.append(
            _part(trainee, preprocessing, folder, f"view-{number}", len(images), shown, embedded)
        )
    drawn = [
        draw_mosaic(
            images, classes, 3 if number % 4 == 3 else 2, preprocessing,
            np.random.default_rng([seed, 1, number]),
        )
        for number in range(mosaics)
    ]  # fmt: skip
    height, width = trainee.feature_map_shape[1:]
    masks = np.zeros((mosaics, MAX_CELLS, height, width), np.float32)
    subjects = np.full((mosaics, MAX_CELLS), -1, np.int64)
    for number, mosaic in enumerate(drawn):
        size = (preprocessing.width, preprocessing.height)
        masks[number] = region_masks(mosaic.boxes, size, (height, width))
        subjects[number, : len(mosaic.subjects)] = mosaic.subjects
    parts: list[Halves] = []
    if mosaics:
        parts = _part(
            trainee, preprocessing, folder, "mosaics", mosaics,
            lambda index: drawn[index].image,
            lambda done: progress("mosaics", done, mosaics),
        )  # fmt: skip
    count = len(stored[0])
    return FrontCache(
        views=[np.stack([part[value] for part in stored]) for value in range(count)],
        mosaics=parts,
        masks=masks,
        subjects=subjects,
    )


def _part(
    trainee: Trainee,
    preprocessing: Preprocessing,
    folder: Path,
    name: str,
    count: int,
    shown: Callable[[int], Image],
    progress: Callable[[int], None],
) -> list[Halves]:
    """The front's values for `count` pictures, from disk where they are finished."""
    index = folder / f"{name}.json"
    if index.exists():
        values = json.loads(index.read_text())
        progress(count)
        return [np.load(folder / f"{name}-{n}.npy", allow_pickle=False) for n in range(values)]
    rows: list[list[Halves]] = []
    for start in range(0, count, _BATCH):
        batch = np.stack([shown(n) for n in range(start, min(start + _BATCH, count))])
        found = trainee.run_front(torch.from_numpy(preprocessing.normalized(batch)))
        rows.append([_half(value.numpy()) for value in found])
        progress(min(start + _BATCH, count))
    parts = [np.concatenate([row[n] for row in rows]) for n in range(len(rows[0]))]
    for number, part in enumerate(parts):
        with atomic_path(folder / f"{name}-{number}.npy") as temporary:
            np.save(temporary, part, allow_pickle=False)
    # Last, so that it stands for all of them.
    with atomic_path(index) as temporary:
        temporary.write_text(json.dumps(len(parts)))
    return parts


def _half(values: npt.NDArray[np.float32]) -> Halves:
    """Half precision, at half the memory; clipped, because some networks exceed its range."""
    limit = float(np.finfo(np.float16).max)
    return np.clip(values, -limit, limit).astype(np.float16)
