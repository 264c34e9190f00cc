"""New images for a bank that exists: its old rows are not embedded again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.banks.bank import (
    Bank,
    BankOutcome,
    BankSource,
    alike_notes,
    label_runs,
    needed_source,
)
from foldcam.export.banks.builder import remarks
from foldcam.export.banks.embedding_pass import EmbeddingPass, embed, forget
from foldcam.export.banks.grad_weights import (
    CHANNEL_RULES,
    ChannelRule,
    head_traits,
    keep_channels,
    pull_back_anywhere,
)
from foldcam.export.banks.head_trial import HeadTrial
from foldcam.export.banks.numbers import unit_rows
from foldcam.export.banks.objectives.directions import Directions, parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.rows import held_hashes, stacked
from foldcam.export.banks.steps import (
    StageProgress,
    data_hash,
    hash_rows,
    second_pass,
    stage_of,
    values_of,
)
from foldcam.export.datasets import Dataset, Sample, SkippedFile
from foldcam.export.datasets.labels import twins
from foldcam.export.networks.cut import Activations, Network
from foldcam.export.networks.onnx_networks.prepare import noise
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def in_order_of_rows(samples: Sequence[Sample], kernel: KernelObjective | None) -> list[Sample]:
    """Samples by label, or by value for a continuous outcome."""
    if kernel is None:
        return sorted(samples, key=lambda sample: sample.label)
    return sorted(samples, key=lambda sample: values_of([sample])[0])


def _new_rows(bank: Bank, found: EmbeddingPass, kept: list[Sample]) -> Bank:
    """The new images as a bank that fits the old one, without grad-weights yet."""
    kernel = kernel_of(bank)
    outcome = None
    if kernel is not None:
        values = kernel.on_scale(values_of(kept))
        outcome = BankOutcome(values, kernel.tau, kernel.transform)
    return replace(
        bank,
        embeddings=unit_rows(found.embeddings, kept),
        grad_weights=np.zeros((len(kept), bank.channels), np.float32),
        grad_index=np.arange(len(kept), dtype=np.int32),
        labels=() if kernel is not None else label_runs([sample.label for sample in kept]),
        outcome=outcome,
        image_hashes=None if bank.image_hashes is None else hash_rows(found.hashes),
        names=tuple(sample.row_name for sample in kept),
        mean_summands=found.mean_map(),
    )


def merged_source(
    source: BankSource, bank: Bank, dataset: Dataset, found: EmbeddingPass, kept: list[Sample]
) -> BankSource:
    """Where a bank with added rows comes from."""
    old = source.origin
    if bank.image_hashes is not None and bank.outcome is None:
        hashes = [row.tobytes().hex() for row in bank.image_hashes]
        data_sha256 = data_hash(hashes, bank.row_labels())
    else:
        # What the old rows' files were called is not known any more.
        added = data_hash(found.hashes, [sample.label for sample in kept])
        data_sha256 = hashlib.sha256(f"{old.data_sha256} {added}".encode()).hexdigest()
    origin = replace(
        old,
        data=_joined(old.data, dataset.name),
        split=_joined(old.split, dataset.split),
        data_sha256=data_sha256,
    )
    return replace(source, origin=origin)


def _joined(old: str, new: str) -> str:
    return old if new in old.split(" + ") else f"{old} + {new}"


_PROBE_IMAGES = 8


@dataclass(frozen=True)
class AddReport:
    """What happened while images were added to a bank.

    Attributes:
        added: rows that are new.
        rederived: whether the old rows' grad-weights were taken again from all embeddings,
            so that the bank equals one built from scratch over all images.
        known: images that are in the bank already, which were left out.
        skipped: images that could not be read.
        fallback_rows: rows whose direction is that of all triplets.
        remarks: what the pass showed about the new images, one sentence each.
    """

    bank: Bank
    added: int
    rederived: bool
    known: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    fallback_rows: int = 0
    remarks: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What the user should know, one sentence each."""
        notes = [*self.remarks, *alike_notes(self.bank)]
        if not self.rederived:
            notes.append(
                "The head is not linear: old rows keep the grad-weights of the comparisons that "
                "they were built with, and only new rows know the new images."
            )
        if self.fallback_rows:
            notes.append(
                f"{self.fallback_rows} of {self.bank.rows} rows had no gradient of their own and "
                "took the all-triplets direction."
            )
        return notes


def add_to_bank(
    bank: Bank,
    network: Network,
    dataset: Dataset,
    *,
    seed: int = 0,
    batch_size: int = 16,
    resume_folder: Path | None = None,
    progress: StageProgress | None = None,
) -> AddReport:
    """Add images of new labels, or more images of known ones, to a bank.

    Only the new images go through the network. Their directions are taken against all
    embeddings, old and new. A head that is linear has one Jacobian for all images, so
    that the old rows' grad-weights follow exactly from the stored embeddings as well: the
    bank equals the one that `build_bank` makes of the old images followed by the new.
    For another head the old rows keep theirs, which speak for the comparisons of old.
    """
    source = needed_source(bank.source, "The bank")
    kernel = kernel_of(bank)
    _check(bank, source, network, dataset.samples)
    samples, held = in_order_of_rows(dataset.samples, kernel), held_hashes(bank)
    trial = HeadTrial(network, again=bank.rule == "transferred")
    found = embed(
        network,
        source.preprocessing,
        samples,
        batch_size=batch_size,
        resume_folder=resume_folder,
        keep=trial.watch,
        known=held,
        progress=stage_of(progress, "embedding"),
    )
    known = [samples[position].name for position in found.known]
    if not found.positions:
        if resume_folder is not None:
            forget(resume_folder)
        raise FoldcamError(
            f"All {len(known)} images are in the bank already: there is nothing to add."
        )
    probe, head = trial.settle(source.preprocessing, samples, batch_size, held)
    left_out = set(found.known)
    fresh = [sample for place, sample in enumerate(samples) if place not in left_out]
    kept = [samples[position] for position in found.positions]
    merged = stacked([bank, _new_rows(bank, found, kept)])
    directions, classes = _directions(merged, seed)
    # Directions follow from the embeddings alone, like a linear head's grad-weights.
    linear = bank.rule == "own" or head.linear
    if linear:
        grad_weights, index = _through_linear_head(bank, network, probe, directions, classes)
        grad_weights = keep_channels(grad_weights, _rule(bank))
    else:
        # The place of each row among the new ones, in the order of `found`; an old one has none.
        place = merged.grad_index - len(bank.grad_weights)
        new = place >= 0
        wanted = np.empty((len(kept), bank.embedding_size), np.float32)
        wanted[place[new]] = directions.values[new]
        pulled = second_pass(
            network, source.preprocessing, samples, found, wanted, trial.cache, batch_size, progress
        )
        added = keep_channels(pulled, _rule(bank))
        grad_weights, index = _in_row_order(
            np.concatenate([bank.grad_weights, added]), merged.grad_index.astype(np.int64)
        )
    if resume_folder is not None:
        forget(resume_folder)
    made = replace(merged, grad_weights=grad_weights, grad_index=index.astype(np.int32))
    made = replace(made, source=merged_source(source, made, dataset, found, kept))
    return AddReport(
        bank=made,
        added=len(kept),
        rederived=linear,
        known=known,
        skipped=found.skipped,
        fallback_rows=directions.fallback_rows,
        remarks=(*remarks(fresh, kept, found), *twins(made.row_labels())),
    )


def kernel_of(bank: Bank) -> KernelObjective | None:
    """The objective of a bank with values, None for labels."""
    if bank.outcome is None:
        return None
    return KernelObjective(bank.objective, bank.outcome.tau, bank.outcome.transform)


def rederived(bank: Bank, network: Network, seed: int = 0) -> Bank | None:
    """The bank with all grad-weights taken again from its embeddings as they are now.

    No image is needed: a linear head has one Jacobian for all of them.

    Args:
        bank: with its source, not compressed.
        network: the network that made it, cut at the same layer.
        seed: the seed of sampled triplets, as when the bank was built.

    Returns:
        None where the head is not linear: each row's Jacobian is its image's own.
    """
    check_network(bank, needed_source(bank.source, "The bank"), network)
    probe = network.forward(torch.from_numpy(noise(network.image_size, _PROBE_IMAGES)))
    if bank.rule != "own" and not head_traits(network, probe).linear:
        return None
    directions, classes = _directions(bank, seed)
    pulled, index = _through_linear_head(bank, network, probe, directions, classes)
    return replace(
        bank, grad_weights=keep_channels(pulled, _rule(bank)), grad_index=index.astype(np.int32)
    )


def _rule(bank: Bank) -> ChannelRule:
    for rule in CHANNEL_RULES:
        if rule == bank.channel_rule:
            return rule
    raise FoldcamError(
        f"The bank keeps the channels {bank.channel_rule!r}, which this foldcam does not know: "
        "build it again."
    )


def check_network(bank: Bank, source: BankSource, network: Network) -> None:
    """Refuse a network that did not make the bank."""
    recipe = source.preprocessing
    if network.layer != source.layer:
        raise FoldcamError(
            f"The bank's grad-weights are those of the layer {source.layer!r} and the network is "
            f"cut at {network.layer!r}: cut it at the bank's."
        )
    if network.image_size != (recipe.height, recipe.width):
        height, width = network.image_size
        raise FoldcamError(
            f"The bank's images were {recipe.width} x {recipe.height} and the network takes "
            f"{width} x {height}: build the bank again for that size."
        )
    if network.sha256() != bank.network_sha256:
        raise FoldcamError(
            f"The bank was made by another network: it names {bank.network_sha256[:12]}... and "
            f"this one is {network.sha256()[:12]}...; its old rows would not be comparable, so "
            "build the bank with this network."
        )
    if bank.compression != "none":
        raise FoldcamError(
            f"The bank was compressed ({bank.compression}), and its grad-weights cannot be taken "
            "again from what is left: use the bank that it was made from."
        )


def _check(bank: Bank, source: BankSource, network: Network, samples: Sequence[Sample]) -> None:
    check_network(bank, source, network)
    if bank.outcome is None and any(sample.value is not None for sample in samples):
        raise FoldcamError("The bank has labels and the images have values: give labels.")


def _directions(bank: Bank, seed: int) -> tuple[Directions, Integers]:
    """The direction of each row, and `int64 [N]`, the number of its label."""
    kernel = kernel_of(bank)
    _, numbers = np.unique(bank.row_labels() or np.zeros(bank.rows), return_inverse=True)
    classes = numbers.astype(np.int64)
    if kernel is not None and bank.outcome is not None:
        return kernel.directions(bank.embeddings, bank.outcome.values), classes
    return parse_objective(bank.objective, seed).directions(bank.embeddings, classes), classes


def _through_linear_head(
    bank: Bank, network: Network, probe: Activations, directions: Directions, classes: Integers
) -> tuple[Floats, Integers]:
    wanted, index = directions.values, np.arange(len(directions.values))
    if directions.per_class:
        _, firsts = np.unique(classes, return_index=True)
        wanted, index = wanted[firsts], classes
    if bank.rule == "own":
        return wanted, index
    return pull_back_anywhere(network, probe, wanted), index


def _in_row_order(grad_weights: Floats, index: Integers) -> tuple[Floats, Integers]:
    """Where no two rows share grad-weights, no index is needed in the graph."""
    if len(grad_weights) != len(index):
        return grad_weights, index
    return grad_weights[index], np.arange(len(index))
