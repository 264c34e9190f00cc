"""How good the trained embeddings are, on images that were not trained on where there are any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.export.banks.embedding_pass import embed
from foldcam.export.banks.retrieval import RECALL_AT, Recall, recall_at_k
from foldcam.export.datasets import Sample, Split, load_dataset
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.runtime.system.errors import FoldcamError

_BATCH = 16


def held_out_recall(
    loaded: LoadedModel, data: Path, split: Split, progress: Callable[[str, int, int], None]
) -> dict[str, dict[str, Any]]:
    """Recall@1/2/4/8 and MAP@R of the training images, and of the test images if there are any.

    Training images are searched among themselves, each without itself; test images
    among the training images.

    Returns:
        `train` and perhaps `test` -> `queries`, `recall_at_1` .. `recall_at_8`, `map_at_r`.
    """
    training = load_dataset(data, split).samples
    network = loaded.network()
    rows, row_labels = _embedded(network, loaded, training, "recall", progress)
    names = {label: number for number, label in enumerate(sorted(set(row_labels)))}
    numbers = np.asarray([names[label] for label in row_labels])
    result = {"train": _document(recall_at_k(rows, numbers))}
    test = _test_samples(data, training)
    if split == "train" and test:
        queries, labels = _embedded(network, loaded, test, "recall on test images", progress)
        known = [n for n, label in enumerate(labels) if label in names]
        wanted = np.asarray([names[labels[n]] for n in known], np.int64)
        if len(known):
            result["test"] = _document(recall_at_k(queries[known], wanted, rows, numbers))
    return result


def recall_text(recall: dict[str, dict[str, Any]]) -> list[str]:
    """One line per part of the data."""
    return [
        f"{part} images ({row['queries']}): "
        + ", ".join(f"recall@{k} {row[f'recall_at_{k}']:.1%}" for k in RECALL_AT)
        + f", MAP@R {row['map_at_r']:.3f}"
        for part, row in recall.items()
    ]


def _test_samples(data: Path, training: Sequence[Sample]) -> list[Sample]:
    """The test split, where the data set has one that is another than the training split."""
    seen = {sample.identity for sample in training}
    try:
        return [s for s in load_dataset(data, "test").samples if s.identity not in seen]
    except FoldcamError:
        return []


def _embedded(
    network: Network,
    loaded: LoadedModel,
    samples: Sequence[Sample],
    stage: str,
    progress: Callable[[str, int, int], None],
) -> tuple[Any, list[str]]:
    found = embed(
        network,
        loaded.preprocessing,
        samples,
        batch_size=_BATCH,
        progress=lambda done, total: progress(stage, done, total),
    )
    norms = np.maximum(np.linalg.norm(found.embeddings, axis=1, keepdims=True), 1e-12)
    return found.embeddings / norms, [samples[n].label for n in found.positions]


def _document(recall: Recall) -> dict[str, Any]:
    shares = {f"recall_at_{k}": share for k, share in recall.recall.items()}
    return {"queries": recall.queries, **shares, "map_at_r": recall.map_at_r}
