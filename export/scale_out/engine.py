"""The bank of any number of images: two map passes over shards and one small reduce.

1. Map: every worker embeds shards and writes their rows with the sums of each label.
2. Reduce: the sums of all shards, one vector per label, give one direction per label. (An
   objective that compares single rows compares them within blocks instead: `blocks`.)
3. Map: the directions are pulled through the head. All rows of a label share them where the
   head is linear: then this step needs no image and no worker.

Every result is a file that is written whole; what is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from export.bank import Bank, scaled_to_unit_maximum
from export.banks.builder import BankReport
from export.banks.grad_weights import (
    ChannelRule,
    HeadTraits,
    head_traits,
    keep_channels,
    pull_back_anywhere,
)
from export.banks.steps import StageProgress
from export.datasets import SingletonPolicy
from export.datasets.reading import clipped_notes, same_pictures
from export.networks.cut import Activations, Network
from export.objectives.directions import Objective
from export.objectives.kernel import KernelObjective
from export.scale_out.assembly import ShardedBank, assemble
from export.scale_out.blocks import BLOCK_ROWS, approximation, label_blocks, value_blocks
from export.scale_out.class_table import ClassTable
from export.scale_out.shard_files import Floats, Rows, is_whole, write_arrays
from export.scale_out.sources import ShardedData
from export.scale_out.streamed_compression import compress
from export.scale_out.worker import (
    BlockTask,
    Directed,
    EmbedTask,
    NetworkRecipe,
    PullTask,
    WorkSetting,
    probe_of,
)
from export.scale_out.workers import Workers, cluster
from export.storage.options import Compression
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing

_Task = TypeVar("_Task")

_PROBE_IMAGES = 8
SHARD_ROWS = 512
"""Images per shard: what a killed worker costs at most."""


@dataclass(frozen=True)
class ClusterOptions:
    """Where and how the work is done.

    Attributes:
        address: of a running Ray cluster, or None for this machine alone.
        workers: processes that have the network.
        block_rows: rows that are compared with each other, for objectives that compare rows.
        seed: of the blocks.
    """

    address: str | None = None
    workers: int = 2
    block_rows: int = BLOCK_ROWS
    seed: int = 0


@dataclass(frozen=True)
class ScaledReport:
    """What happened while a bank was built on Ray.

    Attributes:
        report: as of one machine.
        notes: what the user should know beside that, one sentence each.
        shards: how many there were.
        resumed: how many of them were there from before.
        seconds: of each stage's work, without the start of cluster and workers.
        worker_bytes: the most memory that each worker held; empty if none was needed.
    """

    report: BankReport
    notes: list[str]
    shards: int
    resumed: int
    seconds: dict[str, float]
    worker_bytes: list[int]


def build_bank_on_ray(
    network: Network,
    recipe: NetworkRecipe,
    preprocessing: Preprocessing,
    data: ShardedData,
    objective: Objective | KernelObjective,
    folder: Path,
    *,
    channel_rule: ChannelRule = "all",
    batch_size: int = 16,
    singletons: SingletonPolicy = "refuse",
    compression: Compression | None = None,
    options: ClusterOptions | None = None,
    progress: StageProgress | None = None,
) -> ScaledReport:
    """Build a bank with workers on Ray; the result is that of `bank_builder.build_bank`.

    Args:
        network: the cut network, as the driver has it.
        recipe: how the workers load the same one.
        preprocessing: how an image becomes its input.
        data: the training images.
        objective: what the directions come from.
        folder: where the shards are written; every worker must see it.
        channel_rule: `all` or `positive`.
        batch_size: images per pass.
        singletons: what to do with labels of one image, where labels are read by the workers.
        compression: makes the bank smaller while it is read from the shards, so that its
            rows are never held together; None for all rows.
        options: where and how the work is done.
        progress: told after each shard.

    Raises:
        FoldcamError: as `build_bank`; or a cluster that cannot be reached, a worker with
            another network, or one that dies of its shard again and again.
    """
    options = options or ClusterOptions()
    kernel = objective if isinstance(objective, KernelObjective) else None
    if kernel is not None and channel_rule == "positive":
        raise FoldcamError(
            "--channels positive leaves nothing that lowers an estimate: leave it out for a "
            "continuous outcome."
        )
    sha256 = network.sha256()
    place = folder / _fingerprint(sha256, network.layer, preprocessing, data, objective,
                                  channel_rule, options)  # fmt: skip
    images = probe_of(data.shards, preprocessing, _PROBE_IMAGES)
    probe = network.forward(torch.from_numpy(images))
    head = head_traits(network, probe)
    setting = WorkSetting(
        preprocessing, batch_size, objective, channel_rule, sha256, head.linear,
        place.absolute(),
    )  # fmt: skip
    write_arrays(setting.probe, {"images": images}, {})
    run = _Run(network, recipe, data, setting, head, probe, options, progress)
    sharded, notes, fallback_rows = run.through(singletons)
    if compression is None or compression.kind == "none":
        bank, data_sha256 = assemble(sharded, kernel)
    else:
        bank, data_sha256 = compress(sharded, compression, kernel, options.seed)
    zero_rows = _zero_rows(bank)
    return ScaledReport(
        BankReport(
            bank,
            head,
            sharded.table.skipped,
            fallback_rows,
            zero_rows,
            data_sha256,
            (*_repeated(bank), *clipped_notes(sharded.table.clipped)),
        ),
        notes,
        len(data.shards),
        run.resumed,
        run.seconds,
        run.worker_bytes,
    )


def forget_shards(folder: Path) -> None:
    """Remove the shards: the bank is written."""
    shutil.rmtree(folder, ignore_errors=True)


class _Run:
    """The passes of one build."""

    def __init__(
        self,
        network: Network,
        recipe: NetworkRecipe,
        data: ShardedData,
        setting: WorkSetting,
        head: HeadTraits,
        probe: Activations,
        options: ClusterOptions,
        progress: StageProgress | None,
    ) -> None:
        self._network = network
        self._recipe = recipe
        self._data = data
        self._setting = setting
        self._head = head
        self._probe = probe
        self._options = options
        self._tell = progress or (lambda *_: None)
        self._workers: Workers | None = None
        self._grads = "grads"
        self.resumed = 0
        self.seconds: dict[str, float] = {}
        self.worker_bytes: list[int] = []

    def through(self, singletons: SingletonPolicy) -> tuple[ShardedBank, list[str], int]:
        """All passes; returns the bank in shards, notes, and how many rows fell back."""
        setting, objective = self._setting, self._setting.objective
        embedded = [self._file("rows", n) for n in range(len(self._data.shards))]
        tasks = [
            EmbedTask(shard, path)
            for shard, path in zip(self._data.shards, embedded, strict=True)
            if not is_whole(path)
        ]
        self.resumed = len(embedded) - len(tasks)
        with cluster(self._options.address, self._options.workers):
            try:
                self._map("embed", tasks, lambda task: task.shard.name, "embedding")
                table = ClassTable.of(embedded)
                notes = self._check(table, singletons)
                fallback_rows = 0
                class_weights: Floats | None = None
                files: list[Path] = []
                if isinstance(objective, Objective) and objective.of_sums is not None:
                    directions = objective.of_sums(table.stacked_sums(), table.counts())
                    if self._head.linear:
                        class_weights = self._of_classes(directions)
                    else:
                        files = self._pull(table, _of_labels(table, directions))
                else:
                    directed, fallback_rows, note = self._in_blocks(table)
                    notes += [note] if note else []
                    files = self._pull(table, directed)
                if self._workers is not None:
                    self.worker_bytes = self._workers.peak_bytes()
            finally:
                if self._workers is not None:
                    self._workers.close()
        sharded = ShardedBank(
            table, class_weights, files, objective.name, setting.channel_rule,
            setting.network_sha256,
        )  # fmt: skip
        return sharded, notes, fallback_rows

    def _check(self, table: ClassTable, singletons: SingletonPolicy) -> list[str]:
        if not sum(table.rows):
            raise FoldcamError(
                f"None of the images could be read; the first: {table.skipped[0].reason}"
            )
        objective = self._setting.objective
        if isinstance(objective, KernelObjective):
            objective.transformed(list(np.concatenate(table.values)))
            return []
        notes = []
        if self._data.listed is None and (dropped := table.drop_singletons(singletons)):
            notes.append(f"{len(dropped)} labels of one image were left out.")
            # Directions without them are other ones.
            self._grads = "grads-without-singletons"
        if len(table.labels) < 2:
            raise FoldcamError(
                "All images have one label: a comparison needs an image of another label, so "
                "add one."
            )
        return notes

    def _of_classes(self, directions: Floats) -> Floats:
        """A linear head gives one row per label, wherever its Jacobian is taken."""
        pulled = pull_back_anywhere(self._network, self._probe, directions)
        return scaled_to_unit_maximum(keep_channels(pulled, self._setting.channel_rule))

    def _in_blocks(self, table: ClassTable) -> tuple[list[list[Directed]], int, str | None]:
        """Directions within blocks: for each shard its parts, fallbacks, and what it means."""
        objective, size = self._setting.objective, self._options.block_rows
        kernel = objective if isinstance(objective, KernelObjective) else None
        if kernel is not None:
            blocks = value_blocks(table.values, size)
        else:
            blocks = label_blocks(table, size, self._options.seed)
        tasks, directed = [], [list[Directed]() for _ in table.paths]
        for number, block in enumerate(blocks):
            out, at = self._file("directions", number), 0
            values = None
            if kernel is not None:
                exact = np.concatenate([table.values[shard][rows] for shard, rows in block.shards])
                values = kernel.on_scale(list(exact))
            tasks.append(BlockTask(block.pieces(table), block.classes, values, out))
            for shard, rows in block.shards:
                directed[shard].append(Directed(Rows(out, at + np.arange(len(rows))), rows))
                at += len(rows)
        fallback_rows = sum(
            self._map("direct", tasks, lambda task: f"the comparisons of {task.out.name}",
                      "directions")
        )  # fmt: skip
        return directed, fallback_rows, approximation(len(blocks), sum(table.rows))

    def _pull(self, table: ClassTable, directed: list[list[Directed]]) -> list[Path]:
        files = [self._file(self._grads, n) for n in range(len(table.paths))]
        tasks = [
            PullTask(self._data.shards[n], table.paths[n], tuple(directed[n]), path)
            for n, path in enumerate(files)
            if not is_whole(path)
        ]
        self._map("pull", tasks, lambda task: task.shard.name, "grad-weights")
        return files

    def _map(
        self, method: str, tasks: list[_Task], describe: Callable[[_Task], str], stage: str
    ) -> list[int]:
        """Results of all tasks. Workers start with the first task that is left to do."""
        if not tasks:
            return []
        if self._workers is None:
            count = min(self._options.workers, max(1, len(self._data.shards)))
            self._workers = Workers(self._recipe, self._setting, count)
        results, started = [], time.perf_counter()
        for result in self._workers.run(method, tasks, describe):
            results.append(result or 0)
            self._tell(f"{stage} (shards)", len(results), len(tasks))
        self.seconds[stage] = time.perf_counter() - started
        return results

    def _file(self, kind: str, number: int) -> Path:
        return self._setting.folder / f"{kind}-{number:08d}.safetensors"


def _repeated(bank: Bank) -> list[str]:
    """Notes on pictures that several rows are of."""
    if bank.image_hashes is None:
        return []
    labels = bank.row_labels()
    if bank.outcome is not None:
        labels = [f"{value:g}" for value in bank.outcome.values]
    return same_pictures([row.tobytes().hex() for row in bank.image_hashes], labels)


def _of_labels(table: ClassTable, directions: Floats) -> list[list[Directed]]:
    """For each shard the directions of its labels."""
    directed = [list[Directed]() for _ in table.paths]
    for label, direction in zip(table.labels, directions, strict=True):
        for shard, start, stop in table.runs[label]:
            rows = np.arange(start, stop)
            directed[shard].append(Directed(direction[None], rows))
    return directed


def _zero_rows(bank: Bank) -> int:
    zero_rows = int(np.count_nonzero(np.abs(bank.grad_weights).max(axis=1)[bank.grad_index] == 0))
    if zero_rows == bank.rows:
        raise FoldcamError(
            "All grad-weights are zero: the feature map has no gradient path to the embedding; "
            "choose another --layer."
        )
    return zero_rows


def _fingerprint(
    sha256: str,
    layer: str,
    preprocessing: Preprocessing,
    data: ShardedData,
    objective: Objective | KernelObjective,
    channel_rule: ChannelRule,
    options: ClusterOptions,
) -> str:
    transform = objective.transform if isinstance(objective, KernelObjective) else ""
    head = [sha256, layer, str(preprocessing), objective.name, transform, channel_rule,
            str(options.block_rows), str(options.seed)]  # fmt: skip
    digest = hashlib.sha256(json.dumps(head).encode())
    for shard in data.shards:
        digest.update(f"{shard.stamp()}|".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
