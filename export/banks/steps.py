"""The steps that building a bank and adding to one have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.embedding_pass import EmbeddingPass, batches
from foldcam.export.banks.grad_weights import pull_back
from foldcam.export.banks.head_trial import FeatureCache
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.datasets import Sample
from foldcam.export.networks.cut import Network
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint8]
StageProgress = Callable[[str, int, int], None]
"""Called with the stage's name, images done and images in all."""


def in_order(samples: Sequence[Sample], kernel: KernelObjective | None) -> list[Sample]:
    """The order of the bank's rows: by label, or by value. What cannot work is said here.

    Args:
        kernel: the objective of a continuous outcome, None for labels.
    """
    if kernel is not None:
        kernel.transformed(values_of(samples))
        return sorted(samples, key=lambda sample: values_of([sample])[0])
    # Sorted by label, so that labels can be stored as runs.
    ordered = sorted(samples, key=lambda sample: sample.label)
    if len({sample.label for sample in ordered}) < 2:
        raise FoldcamError(
            "All images have one label: a comparison needs an image of another label, so add one."
        )
    return ordered


def values_of(samples: Sequence[Sample]) -> list[float]:
    """The value of each sample."""
    values = [sample.value for sample in samples if sample.value is not None]
    if len(values) < len(samples):
        raise FoldcamError(
            f"{len(samples) - len(values)} of {len(samples)} images have a label and no value: "
            "read the data set with --continuous."
        )
    return values


def second_pass(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    found: EmbeddingPass,
    directions: Floats,
    cache: FeatureCache,
    batch_size: int,
    progress: StageProgress | None,
) -> Floats:
    """For a head that is not linear: its Jacobian is taken at each image.

    The trunk runs again only for images whose feature maps did not fit the cache, or
    were embedded before an interruption.

    Args:
        preprocessing: how an image becomes its input.
        samples: as they were embedded.
        found: by that pass, N images.
        directions: `float32 [N, D]`, one per image that was found.
        cache: what that pass kept.
        batch_size: images per pass.
        progress: called after each batch.

    Returns:
        `float32 [N, K]`, not yet scaled.
    """
    row_of = {position: row for row, position in enumerate(found.positions)}
    grad_weights = np.empty((len(row_of), network.feature_map_shape[0]), np.float32)
    done = 0
    progress = progress or (lambda *_: None)
    for positions, activations in cache:
        rows = [row_of.pop(position) for position in positions]
        images = [samples[position] for position in positions]
        grad_weights[rows] = pull_back(network, activations, directions[rows], images)
        done += len(rows)
        progress("grad-weights", done, len(grad_weights))
    left = list(row_of.items())
    for batch in batches([samples[position] for position, _ in left], preprocessing, batch_size):
        if batch.skipped:
            raise FoldcamError(
                f"{batch.skipped[0].path} could be read at first and now cannot: "
                f"{batch.skipped[0].reason}"
            )
        rows = [left[number][1] for number in batch.positions]
        images = [samples[left[number][0]] for number in batch.positions]
        activations = network.forward(batch.images)
        grad_weights[rows] = pull_back(network, activations, directions[rows], images)
        done += len(rows)
        progress("grad-weights", done, len(grad_weights))
    return grad_weights


def stage_of(progress: StageProgress | None, name: str) -> Callable[[int, int], None] | None:
    """The progress of one stage, as `embedding_pass.embed` takes it."""
    return None if progress is None else partial(progress, name)


def hash_rows(hashes: Sequence[str]) -> Hashes:
    """The hexadecimal hashes of N pictures as `uint8 [N, 32]`."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)


def data_hash(hashes: Iterable[str], labels: Iterable[str]) -> str:
    """SHA-256 over each row's image hash and label, in row order."""
    digest = hashlib.sha256()
    for image, label in zip(hashes, labels, strict=True):
        digest.update(f"{image} {label}\n".encode())
    return digest.hexdigest()
