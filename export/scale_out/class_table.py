"""What the first pass leaves with the driver: classes, where their rows are, and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export.datasets import SingletonPolicy, SkippedFile
from export.scale_out.shard_files import Doubles, EmbeddedShard, Integers, Rows
from runtime.errors import FoldcamError


@dataclass
class ClassTable:
    """Rows of all shards, by class. The reduce of the first pass: it holds no row itself.

    Attributes:
        paths: the files of the shards.
        rows: of each shard.
        runs: for each label its rows, `(shard, start, stop)`, in the data set's order.
        sums: for each label the sum of its embeddings, `float64 [D]`.
        values: of each shard's rows, where they have values.
        skipped: images that could not be read.
        clipped: how many had a box that reached beyond their photograph.
    """

    paths: list[Path] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    runs: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    sums: dict[str, Doubles] = field(default_factory=dict)
    values: list[Doubles] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    clipped: int = 0

    @staticmethod
    def of(paths: Sequence[Path]) -> ClassTable:
        """The table of all shards, added in their order, so that no sum depends on who was first.

        Raises:
            DamagedShardError: a shard is not what was written.
        """
        table = ClassTable()
        for path in paths:
            table.add(path, EmbeddedShard.load(path))
        return table

    def add(self, path: Path, shard: EmbeddedShard) -> None:
        """The next shard."""
        number, start = len(self.paths), 0
        self.paths.append(path)
        self.rows.append(shard.rows)
        self.skipped += shard.skipped
        self.clipped += shard.clipped
        if shard.values is not None:
            self.values.append(shard.values)
        for (label, count), total in zip(shard.labels, shard.sums, strict=True):
            self.runs.setdefault(label, []).append((number, start, start + count))
            self.sums[label] = self.sums[label] + total if label in self.sums else total
            start += count

    @property
    def labels(self) -> list[str]:
        """In the order of a bank's rows."""
        return sorted(self.runs)

    def count(self, label: str) -> int:
        """Rows of a label."""
        return sum(stop - start for _, start, stop in self.runs[label])

    def counts(self) -> Integers:
        """`int64 [C]`, in the order of `labels`."""
        return np.asarray([self.count(label) for label in self.labels], np.int64)

    def stacked_sums(self) -> Doubles:
        """`float64 [C, D]`, in the order of `labels`."""
        return np.stack([self.sums[label] for label in self.labels])

    def pieces(self, label: str) -> list[Rows]:
        """A label's rows in the files of embeddings."""
        return [
            Rows(self.paths[shard], np.arange(start, stop))
            for shard, start, stop in self.runs[label]
        ]

    def drop_singletons(self, policy: SingletonPolicy) -> list[str]:
        """For data whose labels were not known before: what to do with labels of one image.

        Returns:
            The labels that were dropped.

        Raises:
            FoldcamError: the policy is `refuse` and there are such labels.
        """
        single = [label for label in self.labels if self.count(label) == 1]
        if not single or policy == "keep":
            return []
        if policy == "refuse":
            shown = ", ".join(map(repr, single[:5])) + (", ..." if len(single) > 5 else "")
            raise FoldcamError(
                f"{len(single)} of the labels have one readable image only ({shown}) and nothing "
                "to compare it with: add images, or pass --singletons drop or keep; the "
                "embeddings are kept."
            )
        for label in single:
            del self.runs[label], self.sums[label]
        return single
