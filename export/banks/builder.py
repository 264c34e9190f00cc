"""Network + training images + objective -> bank, with progress, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.bank import Bank, BankOutcome, label_runs
from foldcam.export.banks.embedding_pass import EmbeddingPass, KeptPictures, embed, forget
from foldcam.export.banks.grad_weights import (
    ChannelRule,
    HeadTraits,
    keep_channels,
    pull_back_anywhere,
)
from foldcam.export.banks.head_trial import HeadTrial
from foldcam.export.banks.numbers import unit_rows
from foldcam.export.banks.objectives.blocks import directions_in_blocks
from foldcam.export.banks.objectives.directions import Directions, Objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.steps import (
    StageProgress,
    data_hash,
    hash_rows,
    in_order,
    second_pass,
    stage_of,
    values_of,
)
from foldcam.export.datasets import Sample, SkippedFile
from foldcam.export.datasets.reading import clipped_notes, same_pictures
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.contract.schema import GradWeightsRule
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BankReport:
    """What happened while a bank was built.

    Attributes:
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
    rule: GradWeightsRule = "transferred",
    batch_size: int = 16,
    resume_folder: Path | None = None,
    kept: KeptPictures | None = None,
    progress: StageProgress | None = None,
) -> BankReport:
    """Embed the images, find each row's direction, pull it through the head once.

    Args:
        preprocessing: how an image becomes its input.
        samples: the training images; a kernel objective needs their values.
        objective: embeddings and labels (or values) -> directions.
        channel_rule: see `keep_channels`.
        rule: `own` keeps the directions themselves, which the graph pulls back at each image.
        batch_size: images per pass.
        resume_folder: where finished work is kept until the bank is complete.
        kept: pictures that an earlier pass has read.
        progress: called after each batch.
    """
    check_rule(objective, channel_rule, rule)
    ordered = in_order(samples, objective if isinstance(objective, KernelObjective) else None)
    # With the gradient computed in the graph, no image's activations are needed again.
    trial = HeadTrial(network, again=rule == "transferred")
    found = embed(
        network,
        preprocessing,
        ordered,
        batch_size=batch_size,
        resume_folder=resume_folder,
        keep=trial.watch,
        kept=kept,
        progress=stage_of(progress, "embedding"),
    )
    probe, head = trial.settle(preprocessing, ordered, batch_size)
    read = [ordered[position] for position in found.positions]
    labels = [sample.label for sample in read]
    outcome = None
    if isinstance(objective, KernelObjective):
        values = objective.transformed(values_of(read))
        outcome = BankOutcome(values, objective.tau, objective.transform)
    rows = BankRows(
        unit_rows(found.embeddings, read), labels, hash_rows(found.hashes),
        [sample.row_name for sample in read], outcome,
    )  # fmt: skip
    # One block of all rows is exact.
    directions, _ = directions_in_blocks(
        objective, rows.embeddings, rows.classes, outcome.values if outcome else None, len(read), 0
    )

    def at_each_image(wanted: Floats) -> Floats:
        return second_pass(
            network, preprocessing, ordered, found, wanted, trial.cache, batch_size, progress
        )

    report = bank_of_rows(
        network, probe, head, rows, directions, objective.name, channel_rule, at_each_image,
        found.skipped, remarks(ordered, read, found), rule, found.mean_map(),
    )  # fmt: skip
    if resume_folder is not None:
        forget(resume_folder)
    return report


@dataclass(frozen=True, eq=False)
class BankRows:
    """What is known of a bank's rows before their grad-weights, in the bank's order.

    Attributes:
        embeddings: `float32 [N, D]` of norm 1.
        labels: the labels of each row; of a continuous outcome as they were read.
        hashes: `uint8 [N, 32]`, see `export.datasets.reading.picture_hash`.
        names: what each row's picture is called, see `Sample.row_name`.
        outcome: describes a continuous outcome; None for labels.
    """

    embeddings: Floats
    labels: Sequence[str]
    hashes: npt.NDArray[np.uint8]
    names: Sequence[str]
    outcome: BankOutcome | None

    @cached_property
    def classes(self) -> Integers:
        """`int64 [N]`: labels as numbers 0..C-1 in their sorted order."""
        _, classes = np.unique(self.labels, return_inverse=True)
        return classes.astype(np.int64)


def bank_of_rows(
    network: Network,
    probe: Activations,
    head: HeadTraits,
    rows: BankRows,
    directions: Directions,
    objective: str,
    channel_rule: ChannelRule,
    at_each_image: Callable[[Floats], Floats],
    skipped: list[SkippedFile],
    remarks: tuple[str, ...],
    rule: GradWeightsRule = "transferred",
    mean_summands: Floats | None = None,
) -> BankReport:
    """Directions pulled through the head, which a linear head does without any image; the bank.

    Args:
        probe: activations of any images.
        rows: N of them.
        directions: the directions of the rows.
        objective: the name of what they come from.
        channel_rule: see `keep_channels`.
        at_each_image: for a head that is not linear: directions `float32 [N, D]` ->
            `float32 [N, K]`, not yet scaled.
        skipped: images that could not be read, for the report.
        remarks: what the pass showed about the data set, for the report.
        rule: see `build_bank`.
        mean_summands: `float32 [K', h, w]`, the mean of the feature maps.
    """
    index = np.arange(len(rows.labels))
    wanted = directions.values
    if directions.per_class and (head.linear or rule == "own"):
        _, firsts = np.unique(rows.classes, return_index=True)
        wanted, index = wanted[firsts], rows.classes
    if rule == "own":
        weights = wanted
    elif head.linear:
        weights = pull_back_anywhere(network, probe, wanted)
    else:
        weights = at_each_image(wanted)
    weights = keep_channels(weights, channel_rule)
    bank = Bank(
        embeddings=rows.embeddings,
        grad_weights=weights,
        grad_index=index.astype(np.int32),
        labels=() if rows.outcome is not None else label_runs(list(rows.labels)),
        objective=objective,
        channel_rule=channel_rule,
        network_sha256=network.sha256(),
        outcome=rows.outcome,
        image_hashes=rows.hashes,
        names=tuple(rows.names),
        summands=network.summands,
        rule=rule,
        mean_summands=mean_summands,
    )
    zero_rows = int(np.count_nonzero(np.abs(weights).max(axis=1)[index] == 0))
    if zero_rows == bank.rows:
        raise FoldcamError(
            "All grad-weights are zero: the feature map has no gradient path to the embedding; "
            "choose another --layer."
        )
    return BankReport(
        bank=bank,
        head=head,
        skipped=skipped,
        fallback_rows=directions.fallback_rows,
        zero_rows=zero_rows,
        data_sha256=data_hash((row.tobytes().hex() for row in rows.hashes), rows.labels),
        remarks=remarks,
    )


def remarks(
    samples: Sequence[Sample], kept: Sequence[Sample], found: EmbeddingPass
) -> tuple[str, ...]:
    """What a pass over the images showed about the data set, one sentence each.

    Args:
        samples: what was to be read.
        kept: what was read, in the order of `found`.
    """
    valued = any(sample.value is not None for sample in samples)
    return remarks_on(
        found.hashes,
        [sample.label for sample in kept],
        [sample.name for sample in kept],
        () if valued else {sample.label for sample in samples} - {sample.label for sample in kept},
        found.clipped,
    )


def remarks_on(
    hashes: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str],
    gone: Iterable[str],
    clipped: int,
) -> tuple[str, ...]:
    """The same of a pass whose samples are elsewhere.

    Args:
        hashes, labels, names: the hashes, labels and names of each picture that was read.
        gone: labels of which no image could be read; none of a continuous outcome.
        clipped: how many boxes reached beyond their photograph.
    """
    notes = same_pictures(hashes, labels, names)
    if gone := sorted(gone):
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        notes.append(
            f"No image of {', '.join(map(repr, gone[:5]))}{more} could be read: "
            f"{'this label is' if len(gone) == 1 else 'these labels are'} not in the bank."
        )
    return (*notes, *clipped_notes(clipped))


def check_rule(
    objective: Objective | KernelObjective,
    channel_rule: ChannelRule,
    rule: GradWeightsRule = "transferred",
) -> None:
    """Refuse a channel rule that has no meaning, or empties half of a continuous answer."""
    if rule == "own" and channel_rule == "positive":
        raise FoldcamError(
            "--channels positive chooses among the bank's grad-weights, and with --grad-weights "
            "own the graph computes them: leave one of the two out."
        )
    if isinstance(objective, KernelObjective) and channel_rule == "positive":
        raise FoldcamError(
            "--channels positive leaves nothing that lowers an estimate: leave it out for a "
            "continuous outcome."
        )
