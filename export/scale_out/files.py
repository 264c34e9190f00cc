"""A bank as a file, built with workers on Ray."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from export.bank import Bank
from export.bank_files import BuiltBank, check_out
from export.banks.grad_weights import ChannelRule
from export.banks.steps import StageProgress
from export.coarse_map import coarse_notes
from export.datasets import Dataset, SingletonPolicy
from export.exporter import bank_notes, normalization_notes, source_of
from export.models.spec import load_model
from export.objectives.directions import Objective
from export.objectives.kernel import KernelObjective
from export.scale_out.engine import ClusterOptions, ScaledReport, build_bank_on_ray, forget_shards
from export.scale_out.sources import ShardedData
from export.scale_out.worker import NetworkRecipe
from export.storage.options import Compression
from runtime.files import hidden_beside
from runtime.preprocess import Preprocessing


@dataclass(frozen=True)
class BankOnRay:
    """A bank that was built on Ray and written.

    Attributes:
        built: as of one machine.
        scaled: how it came about on Ray.
    """

    built: BuiltBank
    scaled: ScaledReport


def build_bank_file_on_ray(
    spec: str,
    data: ShardedData,
    out: Path,
    objective: Objective | KernelObjective,
    *,
    weights: Path | None = None,
    output: str | None = None,
    preprocessing: Preprocessing | None = None,
    layer: str | None = None,
    channel_rule: ChannelRule = "all",
    batch_size: int = 16,
    singletons: SingletonPolicy = "refuse",
    compression: Compression | None = None,
    options: ClusterOptions | None = None,
    keep_shards: Path | None = None,
    progress: StageProgress | None = None,
) -> BankOnRay:
    """Build a bank and write it; interrupted, the same call goes on where it stopped.

    Args:
        spec: MODEL, as `load_model` takes it: every worker loads it by itself.
        data: the training images.
        out: the bank's file. Shards are beside it until it is written.
        objective: what the directions come from.
        weights, output, layer: as in `load_model` and `LoadedModel.network`.
        preprocessing: overrides the network's own.
        channel_rule, batch_size, singletons, compression, options, progress: as in
            `build_bank_on_ray`.
        keep_shards: a folder in which the shards stay, from which another compression of the
            same build is made without embedding anything again.

    Raises:
        FoldcamError: anything about network, data, cluster or output that cannot be used.
    """
    check_out(out)
    loaded = load_model(spec, weights, output)
    preprocessing = preprocessing or loaded.preprocessing
    network = loaded.network(layer, (preprocessing.height, preprocessing.width))
    folder = keep_shards or hidden_beside(out, "shards")
    name, mark, chosen = spec.partition("#")
    recipe = NetworkRecipe(
        # Workers may stand in another folder.
        spec=f"{Path(name).absolute()}{mark}{chosen}" if Path(name).is_file() else spec,
        weights=weights.absolute() if weights else None,
        output=output,
        layer=network.layer,
        folder=str(Path.cwd()),
    )
    made = build_bank_on_ray(
        network,
        recipe,
        preprocessing,
        data,
        objective,
        folder,
        channel_rule=channel_rule,
        batch_size=batch_size,
        singletons=singletons,
        compression=compression,
        options=options,
        progress=progress,
    )
    # The samples themselves are no part of a bank's source.
    dataset = Dataset(data.name, data.split, ())
    source = source_of(made.report, loaded, dataset, network, preprocessing)
    report = replace(made.report, bank=replace(made.report.bank, source=source))
    report.bank.save(out)
    if report.bank.compression != "none":
        # As everyone reads it: factors are multiplied out again.
        report = replace(report, bank=Bank.load(out))
    if keep_shards is None:
        forget_shards(folder)
    notes = [
        *normalization_notes(loaded, preprocessing),
        *coarse_notes(loaded, network),
        *bank_notes(network, report),
        *made.notes,
    ]
    return BankOnRay(BuiltBank(out, report, notes), made)
