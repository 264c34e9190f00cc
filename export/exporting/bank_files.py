"""Banks as files: build one, add to one, say what is in one."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from foldcam.export.banks.bank import Bank, needed_source
from foldcam.export.banks.builder import BankReport, build_bank
from foldcam.export.banks.grad_weights import ChannelRule
from foldcam.export.banks.objectives.directions import Objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.steps import StageProgress
from foldcam.export.banks.update import AddReport, add_to_bank
from foldcam.export.datasets import Dataset, SingletonPolicy, handle_singletons
from foldcam.export.exporting.exporter import bank_notes, normalization_notes, source_of
from foldcam.export.exporting.trials import coarse_notes
from foldcam.export.grafting.own import chosen_grad_weights
from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.export.networks.feature_map import UnknownLayerError
from foldcam.runtime.contract.schema import GradWeightsRule
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import hidden_beside, user_errors_for

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class BuiltBank:
    """A bank that was built and written.

    Attributes:
        report: how it came about.
        notes: what the user should know, one sentence each.
    """

    path: Path
    report: BankReport
    notes: list[str] = field(default_factory=list)


def build_bank_file(
    loaded: LoadedModel,
    dataset: Dataset,
    out: Path,
    objective: Objective | KernelObjective,
    *,
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    channel_rule: ChannelRule = "all",
    grad_weights: GradWeightsRule | None = None,
    batch_size: int = 16,
    progress: StageProgress | None = None,
) -> BuiltBank:
    """Build a bank and write it.

    Args:
        loaded: the network with its own preprocessing.
        dataset: the training images; a kernel objective needs their values.
        out: the bank's file, replaced only when everything succeeded. Finished work of
            an interrupted build stays beside it, and a later call goes on from there.
        objective: what the directions come from.
        preprocessing: overrides the network's own.
        layer: the feature map's name, or None to find it.
        channel_rule: `all` or `positive`.
        grad_weights: as in `export_model`.
        batch_size: images per pass.
        progress: called after each batch.

    Raises:
        FoldcamError: anything about network, data or output that cannot be used.
    """
    check_out(out)
    preprocessing = preprocessing or loaded.preprocessing
    network = loaded.network(layer, (preprocessing.height, preprocessing.width))
    report = build_bank(
        network,
        preprocessing,
        dataset.samples,
        objective,
        channel_rule=channel_rule,
        rule=chosen_grad_weights(network, grad_weights),
        batch_size=batch_size,
        resume_folder=_resume_folder(out),
        progress=progress,
    )
    source = source_of(report, loaded, dataset, network, preprocessing)
    report = replace(report, bank=replace(report.bank, source=source))
    report.bank.save(out)
    notes = [
        *normalization_notes(loaded, preprocessing),
        *coarse_notes(loaded, network),
        *bank_notes(network, report),
    ]
    return BuiltBank(out, report, notes)


def add_to_bank_file(
    bank: Bank,
    loaded: LoadedModel,
    dataset: Dataset,
    out: Path,
    *,
    singletons: SingletonPolicy = "refuse",
    seed: int = 0,
    batch_size: int = 16,
    progress: StageProgress | None = None,
) -> AddReport:
    """Add images to a bank, and write the new one.

    Args:
        bank: the bank.
        loaded: the network that made it.
        dataset: the new images.
        out: the new bank's file.
        singletons: what to do with new labels of one image.
        seed, batch_size, progress: as in `add_to_bank`.

    Raises:
        FoldcamError: as `add_to_bank`; or a file that cannot be written.
    """
    check_out(out)
    network = network_of_bank(bank, loaded)
    report = add_to_bank(
        bank,
        network,
        replace(dataset, samples=_singletons(bank, dataset, singletons)),
        seed=seed,
        batch_size=batch_size,
        resume_folder=_resume_folder(out),
        progress=progress,
    )
    report.bank.save(out)
    return report


def network_of_bank(bank: Bank, loaded: LoadedModel) -> Network:
    """The network that made a bank, cut where the bank's grad-weights are."""
    source = needed_source(bank.source, "The bank")
    recipe = source.preprocessing
    try:
        size = (recipe.height, recipe.width)
        return loaded.network(source.layer, size, summands=bank.summands is not None)
    except UnknownLayerError:
        raise FoldcamError(
            f"The bank was made with another network: {loaded.name} has no layer {source.layer!r}, "
            "of which the bank's grad-weights are; name the bank's own network."
        ) from None


def bank_summary(bank: Bank) -> dict[str, Any]:
    """What is in a bank, for `--json`: sizes, labels with their rows, objective, origin."""
    outcome = None if bank.outcome is None else bank.outcome.summary()
    counts: Counter[str] = Counter()
    for run in bank.labels:
        counts[run.name] += run.count
    source = bank.source
    return {
        "rows": bank.rows,
        "embedding_size": bank.embedding_size,
        "channels": bank.channels,
        "grad_weight_rows": int(bank.grad_weights.shape[0]),
        "labels": dict(counts),
        "outcome": None if outcome is None else vars(outcome),
        "objective": bank.objective,
        "channel_rule": bank.channel_rule,
        "compression": bank.compression,
        "sha256": bank.sha256(),
        "network_sha256": bank.network_sha256,
        "layer": None if source is None else source.layer,
        "preprocessing": None if source is None else asdict(source.preprocessing),
        "origin": None if source is None else asdict(source.origin),
    }


def _singletons(bank: Bank, dataset: Dataset, policy: SingletonPolicy) -> tuple[Any, ...]:
    """A lone image of a label that the bank knows has company there."""
    if bank.outcome is not None:
        return dataset.samples
    known = {run.name for run in bank.labels}
    foreign = tuple(sample for sample in dataset.samples if sample.label not in known)
    kept = set(map(id, handle_singletons(foreign, policy)))
    return tuple(s for s in dataset.samples if s.label in known or id(s) in kept)


def _resume_folder(out: Path) -> Path:
    return hidden_beside(out, "resume")


def check_out(out: Path) -> None:
    """Say before a long pass what would fail after it."""
    if out.suffix != SUFFIX:
        raise FoldcamError(f"--out {out}: a bank is a {SUFFIX} file.")
    if out.is_dir():
        raise FoldcamError(f"{out} is a folder: give the name of a file.")
    with user_errors_for(out):
        out.parent.mkdir(parents=True, exist_ok=True)
