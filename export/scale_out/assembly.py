"""Shards -> one bank, equal to what one machine builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.bank import Bank, BankOutcome, label_runs
from export.banks.steps import data_hash
from export.objectives.kernel import KernelObjective
from export.scale_out.class_table import ClassTable
from export.scale_out.shard_files import Doubles, EmbeddedShard, Floats, Integers, read_arrays
from runtime.contract import LabelRun


@dataclass(frozen=True)
class ShardedBank:
    """A bank whose rows are in shards.

    Attributes:
        table: where they are.
        class_weights: `float32 [C, K]` in the order of the table's labels, where the rows of a
            label share their grad-weights.
        grad_files: the shards' grad-weights, where they do not.
        objective: what the directions came from.
        channel_rule: `all` or `positive`.
        network_sha256: of the network.
        basis: `float64 [r, K]`, onto which the grad-weights are projected; None for none.
    """

    table: ClassTable
    class_weights: Floats | None
    grad_files: Sequence[Path]
    objective: str
    channel_rule: str
    network_sha256: str
    basis: Doubles | None = None

    def grad_weights(self, shard: int) -> Floats:
        """`float32 [n, K]` of a shard's rows, in its file's order; `[n, r]` with a basis."""
        arrays, _ = read_arrays(self.grad_files[shard])
        weights: Floats = arrays["grad_weights"]
        if self.basis is None:
            return weights
        projected: Floats = (weights.astype(np.float64) @ self.basis.T).astype(np.float32)
        return projected


def assemble(sharded: ShardedBank, kernel: KernelObjective | None) -> tuple[Bank, str]:
    """All rows in one bank, which has to fit into memory.

    Args:
        sharded: the shards.
        kernel: the objective of a continuous outcome, None for labels.

    Returns:
        The bank, and the hash of its data as `bank_builder.build_bank` gives it.

    Raises:
        DamagedShardError: a shard is not what was written.
    """
    table = sharded.table
    loaded = [EmbeddedShard.load(path) for path in table.paths]
    offsets = np.cumsum([0, *table.rows])
    outcome = None
    if kernel is not None:
        values = np.concatenate([shard.values for shard in loaded if shard.values is not None])
        order: Integers = np.argsort(values, kind="stable")
        outcome = BankOutcome(kernel.transformed(list(values[order])), kernel.tau, kernel.transform)
        names = [name for shard in loaded for name, count in shard.labels for _ in range(count)]
        labels = [names[row] for row in order]
        index = np.arange(len(order))
    else:
        runs = [(label, run) for label in table.labels for run in table.runs[label]]
        order = np.concatenate(
            [np.arange(start, stop) + offsets[shard] for _, (shard, start, stop) in runs]
        )
        labels = [label for label, (_, start, stop) in runs for _ in range(stop - start)]
        index = np.repeat(np.arange(len(table.labels)), table.counts())
    hashes = np.concatenate([shard.image_hashes for shard in loaded])[order]
    if sharded.class_weights is None:
        weights = np.concatenate([sharded.grad_weights(n) for n in range(len(loaded))])[order]
        index = np.arange(len(order))
    else:
        weights = sharded.class_weights
    named: tuple[LabelRun, ...] = () if outcome is not None else label_runs(labels)
    bank = Bank(
        embeddings=np.concatenate([shard.embeddings for shard in loaded])[order],
        grad_weights=weights,
        grad_index=index.astype(np.int32),
        labels=named,
        objective=sharded.objective,
        channel_rule=sharded.channel_rule,
        network_sha256=sharded.network_sha256,
        outcome=outcome,
        image_hashes=hashes,
    )
    return bank, data_hash([row.tobytes().hex() for row in hashes], labels)
