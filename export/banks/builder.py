"""Network + training images + objective -> bank, with progress, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.bank import Bank, BankOutcome, label_runs, scaled_to_unit_maximum
from export.banks.embedding_pass import EmbeddingPass, embed, forget, probe_activations
from export.banks.feature_cache import FeatureCache
from export.banks.grad_weights import (
    ChannelRule,
    HeadTraits,
    head_traits,
    keep_channels,
    pull_back_anywhere,
)
from export.banks.numbers import unit_rows
from export.banks.steps import (
    StageProgress,
    data_hash,
    hash_rows,
    in_order,
    second_pass,
    stage_of,
    values_of,
)
from export.datasets import Sample, SkippedFile
from export.datasets.reading import clipped_notes, same_pictures
from export.networks.cut import Network
from export.objectives.directions import Objective
from export.objectives.kernel import KernelObjective
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing

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
        remarks: what the pass showed about the data set, one sentence each.
    """

    bank: Bank
    head: HeadTraits
    skipped: list[SkippedFile] = field(default_factory=list)
    fallback_rows: int = 0
    zero_rows: int = 0
    data_sha256: str = ""
    remarks: tuple[str, ...] = ()


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
    ordered = in_order(samples, kernel)
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
    _, classes = np.unique(labels, return_inverse=True)
    embeddings = unit_rows(found.embeddings, kept)
    outcome = None
    if isinstance(objective, KernelObjective):
        values = objective.transformed(values_of(kept))
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
            grad_weights = second_pass(
                network,
                preprocessing,
                ordered,
                found,
                directions.values,
                cache,
                batch_size,
                progress,
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
        image_hashes=hash_rows(found.hashes),
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
        data_sha256=data_hash(found.hashes, labels),
        remarks=remarks(ordered, kept, found),
    )


def remarks(
    samples: Sequence[Sample], kept: Sequence[Sample], found: EmbeddingPass
) -> tuple[str, ...]:
    """What a pass over the images showed about the data set, one sentence each.

    Args:
        samples: what was to be read.
        kept: what was read, in the order of `found`.
        found: the pass.
    """
    notes = same_pictures(
        found.hashes, [sample.label for sample in kept], [sample.name for sample in kept]
    )
    gone = sorted({sample.label for sample in samples} - {sample.label for sample in kept})
    if gone and all(sample.value is None for sample in samples):
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        notes.append(
            f"No image of {', '.join(map(repr, gone[:5]))}{more} could be read: "
            f"{'this label is' if len(gone) == 1 else 'these labels are'} not in the bank."
        )
    return (*notes, *clipped_notes(found.clipped))
