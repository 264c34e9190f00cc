"""Network + training images + objective -> bank, with progress, resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.bank import Bank, BankOutcome, label_runs, scaled_to_unit_maximum
from export.datasets import Sample
from export.embedding_pass import (
    EmbeddingPass,
    SkippedFile,
    batches,
    embed,
    forget,
    probe_activations,
)
from export.feature_cache import FeatureCache
from export.grad_weights import (
    ChannelRule,
    HeadTraits,
    head_traits,
    keep_channels,
    pull_back,
    pull_back_anywhere,
)
from export.kernel import KernelObjective
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
    objective: Objective | KernelObjective,
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
        samples: the training images; a kernel objective needs their values.
        objective: embeddings and labels (or values) -> directions.
        channel_rule: see `keep_channels`.
        batch_size: images per pass.
        resume_folder: where finished work is kept until the bank is complete.
        progress: told after each batch.

    Raises:
        FoldcamError: no readable image, one label or value only, a value that cannot be
            used, numbers that are not finite.
    """
    kernel = objective if isinstance(objective, KernelObjective) else None
    if kernel is not None and channel_rule == "positive":
        raise FoldcamError(
            "--channels positive leaves nothing that lowers an estimate: leave it out for a "
            "continuous outcome."
        )
    ordered = _in_order(samples, kernel)
    probe = probe_activations(network, preprocessing, ordered, _PROBE_IMAGES)
    head = head_traits(network, probe) if probe is not None else None
    cache = FeatureCache()
    found = embed(
        network,
        preprocessing,
        ordered,
        batch_size=batch_size,
        resume_folder=resume_folder,
        # A linear head takes its grad-weights from the directions alone.
        keep=None if head is not None and head.linear else cache.keep,
        progress=_stage(progress, "embedding"),
    )
    # Without a readable image to try the head on, `embed` has raised.
    assert probe is not None
    assert head is not None
    kept = [ordered[position] for position in found.positions]
    labels = [sample.label for sample in kept]
    _, classes = np.unique(labels, return_inverse=True)
    embeddings = _unit_rows(found.embeddings)
    outcome = None
    if isinstance(objective, KernelObjective):
        values = objective.transformed(_values(kept))
        outcome = BankOutcome(values, objective.tau, objective.transform)
        directions = objective.directions(embeddings, values)
    else:
        directions = objective.directions(embeddings, classes.astype(np.int64))
    if head.linear and directions.per_class:
        _, firsts = np.unique(classes, return_index=True)
        grad_weights = pull_back_anywhere(network, probe, directions.values[firsts])
        index = classes.astype(np.int32)
    else:
        if head.linear:
            grad_weights = pull_back_anywhere(network, probe, directions.values)
        else:
            grad_weights = _second_pass(
                network, preprocessing, ordered, found, directions, cache, batch_size, progress
            )
        index = np.arange(len(labels), dtype=np.int32)
    scaled = scaled_to_unit_maximum(keep_channels(grad_weights, channel_rule))
    bank = Bank(
        embeddings=embeddings,
        grad_weights=scaled,
        grad_index=index,
        labels=() if outcome is not None else label_runs(labels),
        objective=objective.name,
        channel_rule=channel_rule,
        network_sha256=network.sha256(),
        outcome=outcome,
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


def _in_order(samples: Sequence[Sample], kernel: KernelObjective | None) -> list[Sample]:
    """The order of the bank's rows. What cannot work is said before the long pass."""
    if kernel is not None:
        kernel.transformed(_values(samples))
        return sorted(samples, key=lambda sample: _values([sample])[0])
    # Sorted by label, so that labels can be stored as runs.
    ordered = sorted(samples, key=lambda sample: sample.label)
    if len({sample.label for sample in ordered}) < 2:
        raise FoldcamError(
            "All images have one label: a comparison needs an image of another label, so add one."
        )
    return ordered


def _values(samples: Sequence[Sample]) -> list[float]:
    values = [sample.value for sample in samples if sample.value is not None]
    if len(values) < len(samples):
        raise FoldcamError(
            f"{len(samples) - len(values)} of {len(samples)} images have a label and no value: "
            "read the data set with --continuous."
        )
    return values


def _second_pass(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    found: EmbeddingPass,
    directions: Directions,
    cache: FeatureCache,
    batch_size: int,
    progress: StageProgress | None,
) -> Floats:
    """For a head that is not linear: its Jacobian is taken at each image.

    The trunk runs again only for images whose feature maps did not fit the cache, or
    were embedded before an interruption.
    """
    row_of = {position: row for row, position in enumerate(found.positions)}
    grad_weights = np.empty((len(row_of), network.feature_map_shape[0]), np.float32)
    done = 0
    tell = progress or (lambda *_: None)
    for positions, activations in cache:
        rows = [row_of.pop(position) for position in positions]
        grad_weights[rows] = pull_back(network, activations, directions.values[rows])
        done += len(rows)
        tell("grad-weights", done, len(grad_weights))
    left = list(row_of.items())
    for batch in batches([samples[position] for position, _ in left], preprocessing, batch_size):
        if batch.skipped:
            raise FoldcamError(
                f"{batch.skipped[0].path} could be read at first and now cannot: "
                f"{batch.skipped[0].reason}"
            )
        rows = [left[number][1] for number in batch.positions]
        activations = network.forward(batch.images)
        grad_weights[rows] = pull_back(network, activations, directions.values[rows])
        done += len(rows)
        tell("grad-weights", done, len(grad_weights))
    return grad_weights


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
