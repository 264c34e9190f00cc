"""Network + training images + objective -> bank, with progress, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.bank import Bank, BankOutcome, label_runs, scaled_to_unit_maximum
from export.banks.embedding_pass import embed, forget, probe_activations
from export.banks.feature_cache import FeatureCache
from export.banks.grad_weights import (
    ChannelRule,
    HeadTraits,
    head_traits,
    keep_channels,
    pull_back_anywhere,
)
from export.banks.steps import (
    StageProgress,
    data_hash,
    hash_rows,
    in_order,
    second_pass,
    stage_of,
    unit_rows,
    values_of,
)
from export.datasets import Sample, SkippedFile
from export.networks.cut import Activations, Network
from export.objectives.directions import Directions, Objective
from export.objectives.kernel import KernelObjective
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

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
    check_rule(objective, channel_rule)
    ordered = in_order(samples, objective if isinstance(objective, KernelObjective) else None)
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
        progress=stage_of(progress, "embedding"),
    )
    # Without a readable image to try the head on, `embed` has raised.
    assert probe is not None
    assert head is not None
    kept = [ordered[position] for position in found.positions]
    labels = [sample.label for sample in kept]
    embeddings, classes = unit_rows(found.embeddings), class_numbers(labels)
    outcome = None
    if isinstance(objective, KernelObjective):
        values = objective.transformed(values_of(kept))
        outcome = BankOutcome(values, objective.tau, objective.transform)
        directions = objective.directions(embeddings, values)
    else:
        directions = objective.directions(embeddings, classes)

    def at_each_image(wanted: Floats) -> Floats:
        return second_pass(
            network, preprocessing, ordered, found, wanted, cache, batch_size, progress
        )

    weights, index = grad_weights_of(network, probe, head, directions, classes, at_each_image)
    scaled = scaled_to_unit_maximum(keep_channels(weights, channel_rule))
    bank = Bank(
        embeddings=embeddings,
        grad_weights=scaled,
        grad_index=index,
        labels=() if outcome is not None else label_runs(labels),
        objective=objective.name,
        channel_rule=channel_rule,
        network_sha256=network.sha256(),
        outcome=outcome,
        image_hashes=hash_rows(found.hashes),
    )
    report = BankReport(
        bank=bank,
        head=head,
        skipped=found.skipped,
        fallback_rows=directions.fallback_rows,
        zero_rows=zero_rows_of(bank),
        data_sha256=data_hash(found.hashes, labels),
    )
    if resume_folder is not None:
        forget(resume_folder)
    return report


def check_rule(objective: Objective | KernelObjective, channel_rule: ChannelRule) -> None:
    """Refuse a channel rule that empties half of a continuous outcome's answer.

    Raises:
        FoldcamError: it does.
    """
    if isinstance(objective, KernelObjective) and channel_rule == "positive":
        raise FoldcamError(
            "--channels positive leaves nothing that lowers an estimate: leave it out for a "
            "continuous outcome."
        )


def class_numbers(labels: Sequence[str]) -> Integers:
    """`int64 [N]`: labels as numbers 0..C-1 in their sorted order."""
    _, classes = np.unique(labels, return_inverse=True)
    return classes.astype(np.int64)


def grad_weights_of(
    network: Network,
    probe: Activations,
    head: HeadTraits,
    directions: Directions,
    classes: Integers,
    at_each_image: Callable[[Floats], Floats],
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Directions pulled through the head, which a linear head does without any image.

    Args:
        network: the cut network.
        probe: activations of any images.
        head: its traits.
        directions: of N rows.
        classes: `int64 [N]`, label numbers 0..C-1.
        at_each_image: for another head: directions `float32 [N, D]` -> `float32 [N, K]`.

    Returns:
        `float32 [M, K]`, not yet scaled, and the one of each row, `int32 [N]`.
    """
    if head.linear and directions.per_class:
        _, firsts = np.unique(classes, return_index=True)
        return pull_back_anywhere(network, probe, directions.values[firsts]), classes.astype(
            np.int32
        )
    if head.linear:
        weights = pull_back_anywhere(network, probe, directions.values)
    else:
        weights = at_each_image(directions.values)
    return weights, np.arange(len(weights), dtype=np.int32)


def zero_rows_of(bank: Bank) -> int:
    """How many rows have grad-weights that are all zero.

    Raises:
        FoldcamError: all have.
    """
    zero_rows = int(np.count_nonzero(np.abs(bank.grad_weights).max(axis=1)[bank.grad_index] == 0))
    if zero_rows == bank.rows:
        raise FoldcamError(
            "All grad-weights are zero: the feature map has no gradient path to the embedding; "
            "choose another --layer."
        )
    return zero_rows
