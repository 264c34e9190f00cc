"""Network + training images + objective -> bank, with progress, resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.bank import Bank, label_runs, scaled_to_unit_maximum
from export.datasets import Sample
from export.embedding_pass import (
    EmbeddingPass,
    SkippedFile,
    batches,
    embed,
    first_activations,
    forget,
)
from export.grad_weights import (
    ChannelRule,
    HeadTraits,
    head_traits,
    keep_channels,
    pull_back,
    pull_back_anywhere,
)
from export.network import Network
from export.objectives import Directions, Objective
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing

_log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
StageProgress = Callable[[str, int, int], None]
"""Called with the stage's name, images done and images in all."""

# Enough images to try the head on, few enough to cost nothing.
_PROBE_IMAGES = 8


@dataclass(frozen=True)
class BankReport:
    """What happened while a bank was built.

    Attributes:
        bank: the bank.
        head: what the head's Jacobian allows.
        skipped: images that could not be read.
        fallback_rows: rows that took the all-triplets direction.
        zero_rows: rows whose grad-weights are all zero (their heatmap is empty).
        data_sha256: of the read files' bytes and labels.
    """

    bank: Bank
    head: HeadTraits
    skipped: list[SkippedFile] = field(default_factory=list)
    fallback_rows: int = 0
    zero_rows: int = 0
    data_sha256: str = ""


def build_bank(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    objective: Objective,
    *,
    channel_rule: ChannelRule = "all",
    batch_size: int = 16,
    resume_folder: Path | None = None,
    progress: StageProgress | None = None,
) -> BankReport:
    """Embed the images, find each row's direction, pull it through the head once.

    Args:
        network: the cut network.
        preprocessing: how an image becomes its input.
        samples: the training images.
        objective: embeddings and labels -> directions.
        channel_rule: see `keep_channels`.
        batch_size: images per pass.
        resume_folder: where finished work is kept until the bank is complete.
        progress: told after each batch.

    Raises:
        FoldcamError: no readable image, one label only, values that are not finite.
    """
    # Rows are sorted by label, so that labels can be stored as runs.
    ordered = sorted(samples, key=lambda sample: sample.label)
    if len({sample.label for sample in ordered}) < 2:
        # Said before the long pass over the images, and not after it.
        raise FoldcamError(
            "All images have one label: a comparison needs an image of another label, so add one."
        )
    found = embed(
        network,
        preprocessing,
        ordered,
        batch_size=batch_size,
        resume_folder=resume_folder,
        progress=_stage(progress, "embedding"),
    )
    labels = [ordered[position].label for position in found.positions]
    _, classes = np.unique(labels, return_inverse=True)
    embeddings = _unit_rows(found.embeddings)
    directions = objective.directions(embeddings, classes.astype(np.int64))
    probe = first_activations(network, preprocessing, ordered, found.positions, _PROBE_IMAGES)
    head = head_traits(network, probe)
    if head.linear and directions.per_class:
        _, firsts = np.unique(classes, return_index=True)
        grad_weights = pull_back_anywhere(network, probe, directions.values[firsts])
        index = classes.astype(np.int32)
    else:
        if head.linear:
            grad_weights = pull_back_anywhere(network, probe, directions.values)
        else:
            grad_weights = _second_pass(
                network, preprocessing, ordered, found, directions, batch_size, progress
            )
        index = np.arange(len(labels), dtype=np.int32)
    scaled = scaled_to_unit_maximum(keep_channels(grad_weights, channel_rule))
    bank = Bank(
        embeddings=embeddings,
        grad_weights=scaled,
        grad_index=index,
        labels=label_runs(labels),
        objective=objective.name,
        channel_rule=channel_rule,
        network_sha256=network.sha256(),
    )
    zero_rows = int(np.count_nonzero(np.abs(scaled).max(axis=1)[index] == 0))
    if zero_rows == bank.rows:
        raise FoldcamError(
            "All grad-weights are zero: the feature map has no gradient path to the embedding; "
            "choose another --layer."
        )
    if resume_folder is not None:
        forget(resume_folder)
    return BankReport(
        bank=bank,
        head=head,
        skipped=found.skipped,
        fallback_rows=directions.fallback_rows,
        zero_rows=zero_rows,
        data_sha256=_data_hash(found.hashes, labels),
    )


def _second_pass(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    found: EmbeddingPass,
    directions: Directions,
    batch_size: int,
    progress: StageProgress | None,
) -> Floats:
    """For a head that is not linear: its Jacobian is taken at each image."""
    kept = [samples[position] for position in found.positions]
    parts: list[Floats] = []
    done = 0
    for batch in batches(kept, preprocessing, batch_size):
        if batch.skipped:
            raise FoldcamError(
                f"{batch.skipped[0].path} could be read at first and now cannot: "
                f"{batch.skipped[0].reason}"
            )
        rows = directions.values[done : done + len(batch.positions)]
        parts.append(pull_back(network, network.forward(batch.images), rows))
        done += len(batch.positions)
        if progress:
            progress("grad-weights", done, len(kept))
    return np.concatenate(parts)


def _unit_rows(embeddings: Floats) -> Floats:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    if (norms < 1e-12).any():
        raise FoldcamError("The network gives an embedding of zeros for some training images.")
    unit: Floats = (embeddings / norms).astype(np.float32)
    return unit


def _stage(progress: StageProgress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(name, done, total)


def _data_hash(hashes: list[str], labels: list[str]) -> str:
    digest = hashlib.sha256()
    for image, label in zip(hashes, labels, strict=True):
        digest.update(f"{image} {label}\n".encode())
    return digest.hexdigest()
