"""The bank beside a model, as a device holds it: rows by label, and what follows from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.schema import (
    BANK_DIRECTION,
    BANK_EMBEDDING,
    BANK_LABEL,
    Contract,
    LabelRun,
)
from foldcam.runtime.contract.tensors import LEAST_LABELS
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

SUFFIX = ".bank"
HASH_BYTES = 32
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LiveBank:
    """A bank whose directions are arithmetic of its embeddings; rows are sorted by label.

    Attributes:
        embeddings: `float32 [N, D]`, each row of L2 norm 1.
        names: what each row's picture is called; empty where that is not known.
        image_hashes: `uint8 [N, 32]`, SHA-256 of each row's picture, zeros where not known.
        mean_summands: `float32 [K', h, w]` of the training images; None where not known. It is
            kept for `foldcam fold`, and nothing on a device reads it.
        about: the rest of the file's header, kept as it is.
    """

    embeddings: Floats
    labels: tuple[LabelRun, ...]
    names: tuple[str, ...]
    image_hashes: npt.NDArray[np.uint8]
    mean_summands: Floats | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """N."""
        return len(self.embeddings)

    @property
    def network_sha256(self) -> str:
        """Hash of the network that the embeddings are of."""
        return str(self.about["network_sha256"])

    @cached_property
    def label_index(self) -> npt.NDArray[np.int32]:
        """`int32 [N]`: the number of each row's label."""
        counts = [run.count for run in self.labels]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def directions(self) -> Floats:
        """`float32 [labels, D]`: by all triplets, see `triplets_of_sums`."""
        counts = np.array([run.count for run in self.labels])
        return triplets_of_sums(class_sums(self.embeddings, self.label_index), counts)

    @cached_property
    def sha256(self) -> str:
        """The hash by which the bank is known, as `foldcam.export.banks.bank.Bank.sha256`."""
        arrays = (self.embeddings, self.directions, self.label_index)
        made = f"{self.about.get('summands')} {self.about.get('rule')};"
        return bank_sha256(arrays, self.labels, made)

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays that the graph takes."""
        return {
            BANK_EMBEDDING: self.embeddings,
            BANK_DIRECTION: self.directions,
            BANK_LABEL: self.label_index,
        }

    def toward(self, embedding: Floats) -> Floats:
        """`float32 [D]`: from the mean of the bank's rows to an embedding over its norm.

        Args:
            embedding: `float32 [D]` of any norm above zero.
        """
        unit = embedding.astype(np.float64) / np.linalg.norm(embedding.astype(np.float64))
        toward: Floats = (unit - self.embeddings.mean(axis=0, dtype=np.float64)).astype(np.float32)
        return toward

    def direction_of(self, label: str, against: str | None = None) -> Floats:
        """`float32 [D]`: from the mean of all other rows, or of one other label's, to a label's."""
        mine = self._number_of(label)
        if against == label:
            raise FoldcamError(f"{label!r} cannot be asked against itself.")
        if against is None:
            direction: Floats = self.directions[mine]
            return direction
        means = [
            self.embeddings[self.label_index == number].mean(axis=0, dtype=np.float64)
            for number in (mine, self._number_of(against))
        ]
        between: Floats = (means[0] - means[1]).astype(np.float32)
        return between

    def _number_of(self, label: str) -> int:
        names = [run.name for run in self.labels]
        if label not in names:
            near = get_close_matches(label, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise FoldcamError(f"The bank has no label {label!r}{hint}")
        return names.index(label)

    def row_labels(self) -> list[str]:
        """The label of each row."""
        return [run.name for run in self.labels for _ in range(run.count)]

    def with_rows(
        self,
        label: str,
        embeddings: Floats,
        names: Sequence[str],
        image_hashes: npt.NDArray[np.uint8],
    ) -> LiveBank:
        """The bank with more rows of one label, which need not be known yet."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embeddings.shape[1]:
            raise FoldcamError(
                f"The embeddings are {list(embeddings.shape)} where the bank's rows have "
                f"{self.embeddings.shape[1]} numbers."
            )
        norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not (norms > 0).all():
            raise FoldcamError("An embedding is zero or not finite, which is no row of a bank.")
        unit = (embeddings / norms).astype(np.float32)
        labels = [*self.row_labels(), *[label] * len(unit)]
        order = sorted(range(len(labels)), key=labels.__getitem__)  # stable: new rows come last
        return self._ordered(
            np.concatenate([self.embeddings, unit]),
            labels,
            [*self.names, *names],
            np.concatenate([self.image_hashes, image_hashes]),
            order,
        )

    def without(self, gone: npt.NDArray[np.bool_]) -> LiveBank:
        """The bank without some of its rows."""
        labels = self.row_labels()
        left = [row for row in range(self.rows) if not gone[row]]
        if len({labels[row] for row in left}) < LEAST_LABELS:
            raise FoldcamError(
                "The bank needs two labels at least, to say what speaks for one and not for the "
                "other: add another label first."
            )
        return self._ordered(self.embeddings, labels, self.names, self.image_hashes, left)

    def check(self, contract: Contract, name: str) -> None:
        """Whether the bank belongs to a model."""
        assert contract.bank_input is not None
        size = contract.bank.embedding_size
        same = self.network_sha256 == contract.origin.network_sha256
        if not same or self.embeddings.shape[1] != size:
            raise FoldcamError(
                f"{name} is the bank of another network than the model's: bring the one that "
                "foldcam export wrote beside the model."
            )
        most, least = contract.bank_input.most_rows, max(contract.neighbors, contract.transfer)
        if not least <= self.rows <= most:
            raise FoldcamError(
                f"{name} has {self.rows} rows, and the model takes {least} to {most}: "
                + ("remove some." if self.rows > most else "add some.")
            )

    def _ordered(
        self,
        embeddings: Floats,
        labels: Sequence[str],
        names: Sequence[str],
        image_hashes: npt.NDArray[np.uint8],
        order: Sequence[int],
    ) -> LiveBank:
        runs: list[LabelRun] = []
        for row in order:
            if runs and runs[-1].name == labels[row]:
                runs[-1] = LabelRun(labels[row], runs[-1].count + 1)
            else:
                runs.append(LabelRun(labels[row], 1))
        kept = list(order)
        return replace(
            self,
            embeddings=embeddings[kept],
            labels=tuple(runs),
            names=tuple(names[row] for row in kept),
            image_hashes=image_hashes[kept],
        )


def bank_path(model: Path) -> Path:
    """Where the bank of a model lies: `faces.bank` beside `faces.onnx` and `faces.engine`."""
    return model.with_suffix(SUFFIX)


def class_sums(embeddings: Floats, labels: npt.NDArray[np.integer]) -> Doubles:
    """`float64 [C, D]`: the sum of each class's embeddings.

    Args:
        embeddings: `float32 [N, D]` of norm 1.
        labels: integers `[N]`, class numbers 0..C-1, each present.
    """
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]))
    # Added up in float64 without a copy of all rows in it.
    np.add.at(sums, labels, embeddings)
    return sums


def triplets_of_sums(sums: Doubles, counts: npt.NDArray[np.integer]) -> Floats:
    """The direction of each class by all triplets: `v = mean(class) - mean(others)`.

    The mean over all triplets of the gradient of `(|a - p|^2 - |a - n|^2) / 2`, see
    `export.banks.objectives.directions.all_triplets`.

    Args:
        sums: `float64 [C, D]`, of each class's embeddings.
        counts: integers `[C]`, images of each class, at least 1.

    Returns:
        `float32 [C, D]`.
    """
    if len(counts) < 2:
        raise FoldcamError(
            "All images have one label: a triplet needs an image of another label, so add one."
        )
    means = sums / counts[:, None]
    others = (sums.sum(axis=0) - sums) / (counts.sum() - counts)[:, None]
    directions: Floats = (means - others).astype(np.float32)
    return directions


def bank_sha256(
    arrays: Sequence[npt.NDArray[np.generic]], labels: Sequence[LabelRun], *further: str | bytes
) -> str:
    """The hash by which a bank is known."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps([[run.name, run.count] for run in labels]).encode())
    for part in further:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()
