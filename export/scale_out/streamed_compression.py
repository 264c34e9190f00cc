"""Shards -> a bank for the edge, read a label or a shard at a time.

`prototypes:N` keeps at most N rows per label: centroids of its embeddings (k-means) with the
mean of their images' grad-weights. `rank:R` keeps every row, and of its grad-weights the best
approximation by R basis vectors. Unlike `export.storage.prototypes`, which shares grad-weights
between rows that all stay, prototypes replace the rows: at this size embeddings are what does not
fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from export.bank import Bank, label_runs, scaled_to_unit_maximum
from export.banks.numbers import unit_rows
from export.low_rank import basis_of, factors
from export.objectives.kernel import KernelObjective
from export.scale_out.assembly import ShardedBank, assemble
from export.scale_out.shard_files import Doubles, Floats, Integers, Rows, each_piece
from export.storage.options import Compression
from runtime.errors import FoldcamError

_WHOLE = 1 << 14
"""A label of more rows is clustered in batches (Sculley 2010), read twice."""


def compress(
    sharded: ShardedBank, compression: Compression, kernel: KernelObjective | None, seed: int
) -> tuple[Bank, str]:
    """A smaller bank, and the hash of the data.

    Args:
        sharded: the shards.
        compression: `prototypes` or `rank`.
        kernel: the objective of a continuous outcome, None for labels.
        seed: of k-means.

    Raises:
        FoldcamError: a rank that saves nothing, or prototypes of a continuous outcome.
    """
    if compression.kind == "prototypes":
        if kernel is not None:
            raise FoldcamError(
                "--compress prototypes:N puts rows of a label together, and a continuous outcome "
                "has none: use --compress rank:R."
            )
        return _prototypes(sharded, compression, seed)
    return _low_rank(sharded, compression.size, kernel)


def _prototypes(sharded: ShardedBank, compression: Compression, seed: int) -> tuple[Bank, str]:
    table = sharded.table
    embeddings: list[Floats] = []
    weights: list[Floats] = []
    index: list[Integers] = []
    names: list[str] = []
    used = 0
    for number, label in enumerate(table.labels):
        pieces = table.pieces(label)
        places = _clusters(pieces, table.count(label), compression.size, seed)
        count = int(places.max()) + 1
        sizes = np.bincount(places, minlength=count)[:, None]
        sums = _sums_of_clusters(each_piece("embeddings", pieces), places, count)
        embeddings.append(unit_rows((sums / sizes).astype(np.float32)))
        if sharded.class_weights is not None:
            weights.append(sharded.class_weights[number][None])
            index.append(np.full(count, used))
            used += 1
        else:
            grads = [
                Rows(sharded.grad_files[table.paths.index(piece.path)], piece.rows)
                for piece in pieces
            ]
            total = _sums_of_clusters(each_piece("grad_weights", grads), places, count)
            weights.append(scaled_to_unit_maximum((total / sizes).astype(np.float32)))
            index.append(used + np.arange(count))
            used += count
        names += [label] * count
    bank = Bank(
        embeddings=np.concatenate(embeddings),
        grad_weights=np.concatenate(weights),
        grad_index=np.concatenate(index).astype(np.int32),
        labels=label_runs(names),
        objective=sharded.objective,
        channel_rule=sharded.channel_rule,
        compression=compression.name,
        network_sha256=sharded.network_sha256,
    )
    return bank, _data_hash(sharded)


def _clusters(pieces: list[Rows], rows: int, most: int, seed: int) -> Integers:
    """`int64 [rows]`: the cluster of each of a label's rows, numbered without gaps."""
    if rows <= most:
        return np.arange(rows)
    places: npt.NDArray[np.int32]
    if rows <= _WHOLE:
        from sklearn.cluster import KMeans

        whole = np.concatenate([array for _, array in each_piece("embeddings", pieces)])
        places = KMeans(most, n_init=4, random_state=seed).fit(whole).labels_
    else:
        from sklearn.cluster import MiniBatchKMeans

        model = MiniBatchKMeans(most, n_init=4, random_state=seed)
        for batch in _batches(pieces, max(most, _WHOLE // 4)):
            model.partial_fit(batch)
        found = [model.predict(array) for _, array in each_piece("embeddings", pieces)]
        places = np.concatenate(found)
    _, numbered = np.unique(places, return_inverse=True)
    return numbered.astype(np.int64)


def _batches(pieces: list[Rows], size: int) -> Iterator[Floats]:
    """A label's embeddings in batches of at least `size` rows, the rest with the last one."""
    held: list[Floats] = []
    pending: Floats | None = None
    for _, array in each_piece("embeddings", pieces):
        held.append(array)
        if sum(map(len, held)) >= size:
            if pending is not None:
                yield pending
            pending, held = np.concatenate(held), []
    yield np.concatenate([*([] if pending is None else [pending]), *held])


def _sums_of_clusters(
    arrays: Iterator[tuple[Rows, Floats]], places: Integers, count: int
) -> Doubles:
    """`float64 [count, columns]`, of the rows of each cluster."""
    sums: Doubles | None = None
    start = 0
    for _, array in arrays:
        if sums is None:
            sums = np.zeros((count, array.shape[1]))
        np.add.at(sums, places[start : start + len(array)], array.astype(np.float64))
        start += len(array)
    assert sums is not None
    return sums


def _low_rank(sharded: ShardedBank, rank: int, kernel: KernelObjective | None) -> tuple[Bank, str]:
    """What `export.low_rank.factors` does, from products that add up over the shards."""
    name = Compression("rank", rank).name
    if sharded.class_weights is not None:
        bank, data_sha256 = assemble(sharded, kernel)
        weights = factors(bank.grad_weights, rank).product()
        return replace(bank, grad_weights=weights, compression=name), data_sha256
    products: Doubles | None = None
    for number in range(len(sharded.table.paths)):
        exact = sharded.grad_weights(number).astype(np.float64)
        products = exact.T @ exact + (0 if products is None else products)
    assert products is not None
    basis = basis_of(products, rank, int(sharded.table.counts().sum()))
    # The rows of R numbers are put in order; full ones are held once, at the end.
    bank, data_sha256 = assemble(replace(sharded, basis=basis), kernel)
    weights = bank.grad_weights @ basis.astype(np.float32)
    return replace(bank, grad_weights=weights, compression=name), data_sha256


def _data_hash(sharded: ShardedBank) -> str:
    """As `bank_steps.data_hash` over all rows by label, a label at a time."""
    digest = hashlib.sha256()
    table = sharded.table
    for label in table.labels:
        for _, hashes in each_piece("image_hashes", table.pieces(label)):
            for row in hashes:
                digest.update(f"{row.tobytes().hex()} {label}\n".encode())
    return digest.hexdigest()
