"""`foldcam bank build --engine ray`: two map passes over shards, and one bank of their files.

1. Map: every worker embeds shards and writes their rows.
2. Reduce: the driver has all rows, and finds their directions as one machine does.
3. Map: directions are pulled through the head at each image. Where the head is linear this step
   needs no image and no worker.

Every result is a file that is written whole; what is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from export.arrays import load_arrays
from export.bank import Bank, BankOutcome, label_runs, scaled_to_unit_maximum
from export.bank_files import BuiltBank, check_out
from export.banks.builder import (
    BankReport,
    check_rule,
    class_numbers,
    grad_weights_of,
    zero_rows_of,
)
from export.banks.grad_weights import ChannelRule, head_traits, keep_channels
from export.banks.steps import StageProgress, data_hash, in_order
from export.datasets import Dataset, Sample, SingletonPolicy, SkippedFile, handle_singletons
from export.exporter import bank_notes, source_of
from export.low_rank import factors
from export.models.spec import load_model
from export.networks.cut import Network
from export.objectives.blocks import BLOCK_ROWS, directions_in_blocks
from export.objectives.directions import Objective
from export.objectives.kernel import KernelObjective
from export.onnx_networks.prepare import noise
from export.scale_out.sources import ShardedData
from export.scale_out.work import Floats, Integers, Task, Worker, load_shard
from export.scale_out.workers import Workers
from export.storage.options import Compression
from export.storage.prototypes import prototype_rows
from runtime.errors import FoldcamError
from runtime.files import user_errors_for
from runtime.preprocess import Preprocessing

SHARD_ROWS = 512
"""Images per shard: what a killed worker costs at most."""


@dataclass(frozen=True)
class BankOnRay:
    """A bank that was built on Ray and written.

    Attributes:
        built: as of one machine.
        shards: how many there were.
        resumed: how many of them were there from before.
        seconds: of each stage's work, without the start of cluster and workers.
        worker_bytes: the most memory that each worker held; empty if none was needed.
    """

    built: BuiltBank
    shards: int
    resumed: int
    seconds: dict[str, float]
    worker_bytes: list[int]


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
        data: the training images.
        out: the bank's file. Shards are beside it until it is written.
        objective: what the directions come from.
        weights, output, layer: as in `load_model` and `LoadedModel.network`.
        preprocessing: overrides the network's own.
        channel_rule: `all` or `positive`.
        batch_size: images per pass.
        singletons: what to do with labels of one image, where labels are read by the workers.
        compression: makes the bank smaller; None for all rows.
        address, workers: as in `workers.cluster`.
        block_rows, seed: as in `directions_in_blocks`.
        keep_shards: a folder in which the shards stay, from which another bank of the same images
            is made without embedding anything again.
        progress: called after each shard.

    Raises:
        FoldcamError: anything about network, data or output that cannot be used; a cluster that
            cannot be reached, a worker with another network, or one that dies of its shard again
            and again.
    """
    check_out(out)
    check_rule(objective, channel_rule)
    if data.listed is not None:
        # What cannot work is refused before hours of work.
        in_order(data.listed, objective if isinstance(objective, KernelObjective) else None)
    loaded = load_model(spec, weights, output)
    look = preprocessing or loaded.preprocessing
    network = loaded.network(layer, (look.height, look.width))
    kept = keep_shards or out.with_name(f".{out.name}.shards")
    name, mark, chosen = spec.partition("#")
    worker = Worker(
        # Workers may stand in another folder.
        spec=f"{Path(name).absolute()}{mark}{chosen}" if Path(name).is_file() else spec,
        weights=weights.absolute() if weights else None,
        output=output,
        layer=network.layer,
        modules=str(Path.cwd()),
        network_sha256=network.sha256(),
        preprocessing=look,
        batch_size=batch_size,
        folder=(kept / _fingerprint(network, look, data)).absolute(),
    )
    with user_errors_for(worker.folder):
        worker.folder.mkdir(parents=True, exist_ok=True)
    processes = Workers(worker, address, min(workers, len(data.shards)))
    passes = _Passes(data, worker.folder, processes, progress or (lambda *_: None))
    try:
        report, notes = passes.report(
            network, objective, channel_rule, singletons, block_rows, seed
        )
        worker_bytes = processes.peak_bytes()
    finally:
        processes.close()
    # The samples themselves are no part of a bank's source.
    source = source_of(report, loaded, Dataset(data.name, data.split, ()), network, look)
    replace(_compressed(report.bank, compression, seed), source=source).save(out)
    # As everyone reads it: factors are multiplied out again.
    report = replace(report, bank=Bank.load(out))
    if keep_shards is None:
        shutil.rmtree(kept, ignore_errors=True)
    built = BuiltBank(out, report, [*bank_notes(network, report), *notes])
    return BankOnRay(built, len(data.shards), passes.resumed, passes.seconds, worker_bytes)


@dataclass
class _Passes:
    """The passes of one build."""

    data: ShardedData
    folder: Path
    workers: Workers
    progress: StageProgress
    resumed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def report(
        self,
        network: Network,
        objective: Objective | KernelObjective,
        channel_rule: ChannelRule,
        singletons: SingletonPolicy,
        block_rows: int,
        seed: int,
    ) -> tuple[BankReport, list[str]]:
        """The bank as one machine builds it, and what the user should know beside that."""
        shards = self.data.shards
        files = [self.folder / f"rows-{n:08d}.npz" for n in range(len(shards))]
        self.resumed = self._map("embedding", "embed", list(map(Task, shards, files)))
        found = [load_shard(path) for path in files]
        embeddings, hashes, values = (
            np.concatenate([arrays[name] for arrays in found])
            for name in ("embeddings", "image_hashes", "values")
        )
        texts = [json.loads(str(arrays["texts"])) for arrays in found]
        # Each label once in memory, however many rows have it.
        labels = [sys.intern(label) for names, _ in texts for label in names]
        skipped = [SkippedFile(Path(path), *rest) for _, each in texts for path, *rest in each]
        if not labels:
            raise FoldcamError(f"None of the images could be read; the first: {skipped[0].reason}")
        notes: list[str] = []
        outcome = None
        if isinstance(objective, KernelObjective):
            order = np.argsort(values, kind="stable")
            on_scale = objective.transformed(list(values[order]))
            outcome = BankOutcome(on_scale, objective.tau, objective.transform)
        else:
            policy = singletons if self.data.listed is None else "keep"
            order, notes = _by_label(labels, policy)
        labels = [labels[row] for row in order]
        embeddings, hashes = embeddings[order], hashes[order]
        classes = class_numbers(labels)
        directions, more = directions_in_blocks(
            objective, embeddings, classes, outcome.values if outcome else None, block_rows, seed
        )
        probe = network.forward(torch.from_numpy(noise(network.image_size, 8)))
        head = head_traits(network, probe)
        weights, index = grad_weights_of(
            network, probe, head, directions, classes,
            lambda wanted: self._at_each_image(wanted, [a["positions"] for a in found], order),
        )  # fmt: skip
        bank = Bank(
            embeddings=embeddings,
            grad_weights=scaled_to_unit_maximum(keep_channels(weights, channel_rule)),
            grad_index=index,
            labels=() if outcome else label_runs(labels),
            objective=objective.name,
            channel_rule=channel_rule,
            network_sha256=network.sha256(),
            outcome=outcome,
            image_hashes=hashes,
        )
        sha256 = data_hash((row.tobytes().hex() for row in hashes), labels)
        zero_rows = zero_rows_of(bank)
        report = BankReport(bank, head, skipped, directions.fallback_rows, zero_rows, sha256)
        return report, [*notes, *more]

    def _at_each_image(
        self, directions: Floats, positions: Sequence[Integers], order: Integers
    ) -> Floats:
        """`float32 [N, K]` for a head that is not linear, in the bank's order."""
        ends = np.cumsum([len(each) for each in positions])
        by_shard = np.zeros((ends[-1], directions.shape[1]), np.float32)
        by_shard[order] = directions
        tasks = []
        for number, part in enumerate(np.split(by_shard, ends[:-1])):
            # Its name says what it was made of: other directions give another file.
            digest = hashlib.sha256(part.tobytes()).hexdigest()[:16]
            path = self.folder / f"grads-{number:08d}-{digest}.npz"
            tasks.append(Task(self.data.shards[number], path, positions[number], part))
        self._map("grad-weights", "pull", tasks)
        pulled = np.concatenate([load_shard(task.out)["grad_weights"] for task in tasks])
        return np.asarray(pulled[order], np.float32)

    def _map(self, stage: str, method: str, tasks: list[Task]) -> int:
        """Do what is left to do; how many tasks were done before."""
        left = [task for task in tasks if load_arrays(task.out) is None]
        if left:
            self.workers.start()
            started = time.perf_counter()
            for done, _ in enumerate(self.workers.run(method, left), 1):
                self.progress(f"{stage} (shards)", done, len(left))
            self.seconds[stage] = time.perf_counter() - started
        return len(tasks) - len(left)


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


def _compressed(bank: Bank, compression: Compression | None, seed: int) -> Bank:
    if compression is None or compression.kind == "none":
        return bank
    if compression.kind == "prototypes":
        return prototype_rows(bank, compression.size, seed)
    weights = factors(bank.grad_weights, compression.size).product()
    return replace(bank, grad_weights=weights, compression=compression.name)


def _fingerprint(network: Network, preprocessing: Preprocessing, data: ShardedData) -> str:
    digest = hashlib.sha256(f"{network.sha256()} {network.layer} {preprocessing}".encode())
    for shard in data.shards:
        digest.update(f"{shard.stamp()}|".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
