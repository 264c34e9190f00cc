"""`foldcam bank build --engine ray`: two map passes over shards, and one bank of their files.

Workers embed shards and write their rows. The driver has all rows, and finds their directions as
one machine does. Where the head is not linear, workers pull directions through it at each image.
Every result is a file that is written whole; what is there is not made again.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from foldcam.export.banks.bank import Bank, BankOutcome
from foldcam.export.banks.builder import BankRows, bank_of_rows, check_rule, remarks_on
from foldcam.export.banks.grad_weights import ChannelRule, head_traits
from foldcam.export.banks.objectives.blocks import BLOCK_ROWS, directions_in_blocks
from foldcam.export.banks.objectives.directions import Objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.banks.steps import StageProgress, in_order
from foldcam.export.datasets import Dataset, Sample, SingletonPolicy, handle_singletons
from foldcam.export.datasets.labels import twins
from foldcam.export.exporting.bank_files import BuiltBank, check_out
from foldcam.export.exporting.exporter import bank_notes, normalization_notes, source_of
from foldcam.export.exporting.scale_out.sources import ShardedData
from foldcam.export.exporting.scale_out.work import (
    Floats,
    Integers,
    ShardRows,
    Task,
    Worker,
    load_pulled,
    load_rows,
)
from foldcam.export.exporting.scale_out.workers import Workers
from foldcam.export.exporting.trials import coarse_notes
from foldcam.export.grafting.options import Compression
from foldcam.export.grafting.own import chosen_grad_weights
from foldcam.export.grafting.prototypes import compressed
from foldcam.export.models.spec import load_model
from foldcam.export.networks.onnx_networks.prepare import noise
from foldcam.runtime.contract.schema import GradWeightsRule
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import hidden_beside, user_errors_for

SHARD_ROWS = 512
"""Images per shard: what a killed worker costs at most."""


class BankOnRay(NamedTuple):
    """A bank that was built on Ray and written.

    `figures` has `shards`, of which `shards_resumed` were there from before, `stage_seconds`
    without the start of cluster and workers, `worker_bytes`, the most that each one held, and
    `data_notes`, how the data set was understood.
    """

    built: BuiltBank
    figures: dict[str, Any]


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
    grad_weights: GradWeightsRule | None = None,
    batch_size: int = 16,
    singletons: SingletonPolicy = "refuse",
    compression: Compression | None = None,
    address: str | None = None,
    workers: int = 2,
    block_rows: int = BLOCK_ROWS,
    seed: int = 0,
    keep_shards: Path | None = None,
    progress: StageProgress | None = None,
) -> BankOnRay:
    """Build a bank and write it; interrupted, the same call goes on where it stopped.

    Args:
        spec: MODEL, as `load_model` takes it: every worker loads it by itself.
        out: the bank's file. Shards are beside it until it is written.
        objective: what the directions come from.
        weights, output: as in `load_model`.
        preprocessing, layer, channel_rule, grad_weights, batch_size: as in `build_bank_file`.
        singletons: what to do with labels of one image, where labels are read by the workers.
        compression: makes the bank smaller; None for all rows.
        address, workers: as in `workers.cluster`.
        block_rows, seed: as in `directions_in_blocks`.
        keep_shards: a folder in which the shards stay, for another bank of the same images.
        progress: called after each shard.
    """
    check_out(out)
    check_rule(objective, channel_rule, grad_weights or "transferred")
    if data.listed is not None:
        # What cannot work is refused before hours of work.
        in_order(data.listed, objective if isinstance(objective, KernelObjective) else None)
    loaded = load_model(spec, weights, output)
    look = preprocessing or loaded.preprocessing
    network = loaded.network(layer, (look.height, look.width))
    kept = keep_shards or hidden_beside(out, "shards")
    # "named": shards of before had no names for the bank's rows.
    stamps = f"named {network.sha256()} {network.layer} {network.summands} {look}"
    stamps += "|".join(s.stamp() for s in data.shards)
    digest = hashlib.sha256(stamps.encode("utf-8", "surrogateescape")).hexdigest()
    folder = (kept / digest[:16]).absolute()
    with user_errors_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Workers may stand in another folder.
    name, mark, chosen = spec.partition("#")
    place = f"{Path(name).absolute()}{mark}{chosen}" if Path(name).is_file() else spec
    worker = Worker(
        place, weights.absolute() if weights else None, output, network.layer, str(Path.cwd()),
        network.sha256(), look, batch_size, folder,
    )  # fmt: skip
    with Workers(worker, address, min(workers, len(data.shards)), progress) as processes:
        files = [folder / f"rows-{number:08d}.npz" for number in range(len(data.shards))]
        resumed = processes.do("embedding", "embed", list(map(Task, data.shards, files)))
        found = [load_rows(path) for path in files]
        policy = singletons if data.listed is None else "keep"
        rows, order, remarks, notes = _rows(found, objective, policy)
        directions, more = directions_in_blocks(
            objective, rows.embeddings, rows.classes,
            rows.outcome.values if rows.outcome else None, block_rows, seed,
        )  # fmt: skip
        probe = network.forward(torch.from_numpy(noise(network.image_size, 8)))

        def at_each_image(wanted: Floats) -> Floats:
            positions = [each.arrays["positions"] for each in found]
            ends = np.cumsum([len(each) for each in positions])
            by_shard = np.zeros((ends[-1], wanted.shape[1]), np.float32)
            by_shard[order] = wanted
            parts = np.split(by_shard, ends[:-1])
            # A file's name says what it was made of: other directions give another one.
            names = [f"{hashlib.sha256(part.tobytes()).hexdigest()[:16]}.npz" for part in parts]
            outs = [folder / f"grads-{n:08d}-{name}" for n, name in enumerate(names)]
            tasks = list(map(Task, data.shards, outs, positions, parts))
            processes.do("grad-weights", "pull", tasks)
            shapes = [(len(part), network.feature_map_shape[0]) for part in parts]
            return np.concatenate(list(map(load_pulled, outs, shapes)))[order]

        report = bank_of_rows(
            network, probe, head_traits(network, probe), rows, directions, objective.name,
            channel_rule, at_each_image, [item for each in found for item in each.skipped], remarks,
            chosen_grad_weights(network, grad_weights), _mean_map(found),
        )  # fmt: skip
        figures = {
            "shards": len(data.shards),
            "shards_resumed": resumed,
            "stage_seconds": processes.seconds,
            "worker_bytes": processes.peak_bytes(),
            "data_notes": list(data.notes),
        }
    # The samples themselves are no part of a bank's source.
    source = source_of(report, loaded, Dataset(data.name, data.split, ()), network, look)
    replace(compressed(report.bank, compression, seed), source=source).save(out)
    # As everyone reads it: factors are multiplied out again.
    report = replace(report, bank=Bank.load(out))
    if keep_shards is None:
        shutil.rmtree(kept, ignore_errors=True)
    notes = [
        *normalization_notes(loaded, look), *coarse_notes(loaded, network),
        *bank_notes(network, report), *notes, *more,
        # Of tars nobody knew the labels before.
        *(twins(rows.labels) if data.listed is None else ()),
    ]  # fmt: skip
    return BankOnRay(BuiltBank(out, report, notes), figures)


def _mean_map(found: Sequence[ShardRows]) -> npt.NDArray[np.float32]:
    """`float32 [K', h, w]`: the mean of all images' feature maps; there is one at least."""
    sums = [each.arrays["summed"] for each in found if each.labels]
    count = sum(len(each.labels) for each in found)
    mean: npt.NDArray[np.float32] = (np.sum(sums, axis=0) / count).astype(np.float32)
    return mean


def _rows(
    found: Sequence[ShardRows], objective: Objective | KernelObjective, singletons: SingletonPolicy
) -> tuple[BankRows, Integers, tuple[str, ...], list[str]]:
    """All shards' rows in the bank's order, that order, remarks on the data set, and notes."""
    labels, names, row_names, wanted, skipped = (
        [item for each in found for item in getattr(each, name)]
        for name in ("labels", "names", "row_names", "wanted", "skipped")
    )
    if not labels:
        if not skipped:
            raise FoldcamError("No image is there.")
        raise FoldcamError(f"None of the images could be read; the first: {skipped[0].reason}")
    embeddings, hashes, values = (
        np.concatenate([each.arrays.pop(name) for each in found])
        for name in ("embeddings", "image_hashes", "values")
    )
    outcome, notes, gone = None, list[str](), set(wanted) - set(labels)
    if isinstance(objective, KernelObjective):
        order, gone = np.argsort(values, kind="stable"), set()
        on_scale = objective.transformed(list(values[order]))
        outcome = BankOutcome(on_scale, objective.tau, objective.transform)
    else:
        order, notes = _by_label(labels, singletons)
    labels, names, hashes = [labels[n] for n in order], [names[n] for n in order], hashes[order]
    clipped = sum(each.clipped for each in found)
    remarks = remarks_on([row.tobytes().hex() for row in hashes], labels, names, gone, clipped)
    called = [row_names[n] for n in order]
    return BankRows(embeddings[order], labels, hashes, called, outcome), order, remarks, notes


def _by_label(labels: Sequence[str], singletons: SingletonPolicy) -> tuple[Integers, list[str]]:
    """Rows in the bank's order, without those that are to be dropped, and a note on them."""
    single = {label for label, count in Counter(labels).items() if count == 1}
    kept = handle_singletons(tuple(Sample(Path(), label) for label in sorted(single)), singletons)
    dropped = single - {sample.label for sample in kept}
    rows = [row for row, label in enumerate(labels) if label not in dropped]
    # A bank of one label is refused there.
    in_order([Sample(Path(), label) for label in {labels[row] for row in rows}], None)
    notes = [f"{len(dropped)} labels of one image were left out."] if dropped else []
    return np.asarray(sorted(rows, key=labels.__getitem__), np.int64), notes
