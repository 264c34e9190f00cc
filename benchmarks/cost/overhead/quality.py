"""Recall and grid pointing of folded models against an exhaustive float32 search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from foldcam.benchmarks.evaluation.bootstrap import Interval, bootstrap, paired_bootstrap
from foldcam.benchmarks.evaluation.localization.methods import weighted
from foldcam.benchmarks.evaluation.localization.metrics import grid_pointing
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, draw_grids, grid_image
from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.fidelity import measure_fidelity
from foldcam.export.grafting.in_graph import StoredBank
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE, NEIGHBOR
from foldcam.runtime.images.preprocess import Image, Preprocessing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_PROBES = (1, 2, 4, 8, 12, 16, 32)
_REPEATS = 2
_BATCH = 16


@dataclass(frozen=True)
class Folded:
    """A folded model beside the exact bank it was made from."""

    session: onnxruntime.InferenceSession  # the folded model
    bank: Bank  # float32 rows
    stored: Bank  # the same bank as the graph holds it


@dataclass(frozen=True)
class Quality:
    """What the smaller bank costs, on images that are not in it."""

    recall_at_1: Interval  # share of images whose row, as the graph returns it, has their label
    recall_at_1_lost: Interval  # that of the exhaustive float32 search, less this one, paired
    same_row: float  # share of images for which both find the same row
    grid_pointing: Interval  # share of the heat on the bird that is asked for, in 2 x 2 pictures
    grid_pointing_lost: Interval  # as `recall_at_1_lost`


def unit_embeddings(
    embedder: onnxruntime.InferenceSession, preprocessing: Preprocessing, test: Subjects
) -> Floats:
    """`float32 [N, D]` of norm 1, one per image."""
    rows = [
        embedder.run([EMBEDDING], {IMAGE: preprocessing.normalized(image[None])})[0]
        for image in test.resized
    ]
    embeddings = np.concatenate(rows)
    unit: Floats = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit


def by_probes(bank: Bank, stored: StoredBank, queries: Floats) -> dict[str, dict[str, Any]]:
    """Fidelity on images that are not in the bank, by the number of lists that are searched."""
    result = {}
    for probes in _PROBES:
        if probes <= stored.storage.lists:
            other = replace(stored, storage=replace(stored.storage, probes=probes))
            result[str(probes)] = asdict(measure_fidelity(bank, other, queries))
    return result


def measure_quality(
    models: dict[int, Folded],
    unit: Floats,
    embedder: onnxruntime.InferenceSession,
    preprocessing: Preprocessing,
    test: Subjects,
    *,
    seed: int,
    draws: int,
    on_progress: Callable[[int, int], None],
) -> dict[int, Quality]:
    """Ask every model about every image, and about the image in grids of four.

    Args:
        unit: the images' embeddings, as `unit_embeddings` makes them.
    """
    labels = np.asarray(test.labels)
    exact, found = {}, {}
    given = [preprocessing.normalized(image[None]) for image in test.resized]
    for rows, model in models.items():
        exact[rows] = (unit @ model.bank.embeddings.T).argmax(axis=1).astype(np.int64)
        answers = [model.session.run([NEIGHBOR], {IMAGE: x})[0][0, 0] for x in given]
        found[rows] = np.asarray(answers, np.int64)
    shares = _grid_shares(models, exact, found, embedder, preprocessing, test, seed, on_progress)
    result = {}
    for rows, model in models.items():
        names = np.asarray(model.bank.row_labels())
        right, ours = names[exact[rows]] == labels, names[found[rows]] == labels
        exact_share, share = shares[rows]
        result[rows] = Quality(
            recall_at_1=bootstrap(ours, draws=draws, seed=seed),
            recall_at_1_lost=paired_bootstrap(right, ours, draws=draws, seed=seed),
            same_row=float(np.mean(exact[rows] == found[rows])),
            grid_pointing=bootstrap(share, draws=draws, seed=seed),
            grid_pointing_lost=paired_bootstrap(exact_share, share, draws=draws, seed=seed),
        )
    return result


def _grid_shares(
    models: dict[int, Folded],
    exact: dict[int, Integers],
    found: dict[int, Integers],
    embedder: onnxruntime.InferenceSession,
    preprocessing: Preprocessing,
    test: Subjects,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Per model: grid pointing of the exact rows and of the found ones, mean per image."""
    grids = draw_grids(test.labels, 2, _REPEATS, seed)
    weights = {}
    for rows, model in models.items():
        ours = model.stored.row_grad_weights()
        weights[rows] = model.bank.row_grad_weights()[exact[rows]], ours[found[rows]]
    sums = {rows: np.zeros((2, len(test))) for rows in models}
    for start in range(0, len(grids), _BATCH):
        on_progress(start, len(grids))
        block = grids[start : start + _BATCH]
        asked = [grid.asked for grid in block]
        images: list[Image] = [grid_image(grid, test.images, preprocessing) for grid in block]
        batch = preprocessing.normalized(np.stack(images))
        feature_map: Floats = embedder.run([FEATURE_MAP], {IMAGE: batch})[0]
        for rows in models:
            for side in (0, 1):
                maps = weighted(weights[rows][side][asked], feature_map)
                for grid, heat in zip(block, maps, strict=True):
                    sums[rows][side, grid.asked] += grid_pointing(heat, 2, 2, grid.cell)
    on_progress(len(grids), len(grids))
    return {rows: (total[0] / _REPEATS, total[1] / _REPEATS) for rows, total in sums.items()}
