"""What one worker does with one shard. Nothing here knows of Ray."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from export.bank import label_runs, scaled_to_unit_maximum
from export.banks.grad_weights import ChannelRule, keep_channels, pull_back, pull_back_anywhere
from export.banks.numbers import check_finite, unit_rows
from export.banks.steps import hash_rows, values_of
from export.datasets import Sample, SkippedFile
from export.models.spec import load_model
from export.networks.cut import Network
from export.objectives.directions import Directions, Objective
from export.objectives.kernel import KernelObjective
from export.scale_out.fetching import shard_batches
from export.scale_out.shard_files import (
    EmbeddedShard,
    Floats,
    Integers,
    Rows,
    gather,
    read_arrays,
    write_arrays,
)
from export.scale_out.sources import Shard
from runtime.errors import FoldcamError
from runtime.preprocess import Preprocessing


@dataclass(frozen=True)
class NetworkRecipe:
    """How any process of any machine loads the network.

    Attributes:
        spec: MODEL of the command line.
        weights: file of the weights, absolute.
        output: which output is the embedding.
        layer: the feature map's name.
        folder: where `package.module:factory` is looked for beside the import path.
    """

    spec: str
    weights: Path | None
    output: str | None
    layer: str | None
    folder: str

    def load(self, size: tuple[int, int]) -> Network:
        """The cut network.

        Raises:
            FoldcamError: as `load_model`.
        """
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        return load_model(self.spec, self.weights, self.output).network(self.layer, size)


@dataclass(frozen=True)
class WorkSetting:
    """What is the same for every shard.

    Attributes:
        preprocessing: how an image becomes the network's input.
        batch_size: images per pass.
        objective: what the directions come from.
        channel_rule: `all` or `positive`.
        network_sha256: of the network that every worker must have.
        linear: whether the head is.
        folder: where the shards' files are, seen by every worker.
    """

    preprocessing: Preprocessing
    batch_size: int
    objective: Objective | KernelObjective
    channel_rule: ChannelRule
    network_sha256: str
    linear: bool
    folder: Path

    @property
    def probe(self) -> Path:
        """File of the images `float32 [n, 3, H, W]` at which a linear head's Jacobian is taken.

        Workers read it, and know by it that they see the folder.
        """
        return self.folder / "probe.safetensors"


@dataclass(frozen=True)
class EmbedTask:
    """A shard to embed, and the file to write."""

    shard: Shard
    out: Path


@dataclass(frozen=True)
class BlockTask:
    """Rows to compare with each other.

    Attributes:
        pieces: where their embeddings are.
        classes: `int64 [m]`, their labels as numbers 0..C-1, each present; None for values.
        values: `float32 [m]` on the kernel's scale; None for labels.
        out: the file of their directions.
    """

    pieces: tuple[Rows, ...]
    classes: Integers | None
    values: Floats | None
    out: Path


@dataclass(frozen=True)
class Directed:
    """Directions of some rows of a shard.

    Attributes:
        source: where the directions are, or the directions themselves, `float32 [m, D]`.
        rows: `int64 [m]`, the rows of the shard that they are for.
    """

    source: Rows | Floats
    rows: Integers


@dataclass(frozen=True)
class PullTask:
    """A shard whose directions are to be pulled back.

    Attributes:
        shard: the images.
        embedded: the file of its embeddings.
        directed: its rows' directions.
        out: the file of grad-weights.
    """

    shard: Shard
    embedded: Path
    directed: tuple[Directed, ...]
    out: Path


class ShardWorker:
    """A process that has the network.

    Args:
        recipe: how it is loaded; done at the first task, so that a worker that was killed
            and started anew goes on.
        setting: what is the same for every shard.
    """

    def __init__(self, recipe: NetworkRecipe, setting: WorkSetting) -> None:
        self._recipe = recipe
        self._setting = setting
        self._loaded: Network | None = None

    def ready(self) -> None:
        """Load the network.

        Raises:
            FoldcamError: it cannot be loaded here, is another one than the driver's, or the
                folder of shards is not seen from here.
        """
        self._network()

    def peak_bytes(self) -> int:
        """The most memory that this process has held so far."""
        # Kibibytes on Linux.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def embed(self, task: EmbedTask) -> None:
        """First pass: embed a shard's images and write its rows.

        Raises:
            FoldcamError: embeddings that are zero or not finite, or a shard that cannot be
                read or written.
        """
        network = self._network()
        parts: list[Floats] = []
        positions: list[int] = []
        hashes: list[str] = []
        read: list[Sample] = []
        values: list[float] = []
        clipped = 0
        skipped: list[SkippedFile] = []
        continuous = isinstance(self._setting.objective, KernelObjective)
        for batch in shard_batches(
            task.shard, self._setting.preprocessing, self._setting.batch_size
        ):
            skipped += batch.loaded.skipped
            clipped += batch.loaded.clipped
            if not batch.samples:
                continue
            parts.append(network.forward(batch.loaded.images).embedding.numpy())
            positions += batch.loaded.positions
            hashes += batch.loaded.hashes
            read += batch.samples
            if continuous:
                values += values_of(batch.samples)
        embeddings = (
            np.concatenate(parts) if parts else np.zeros((0, network.embedding_size), np.float32)
        )
        check_finite(embeddings, read)
        labels = [sample.label for sample in read]
        # With values in place of labels the rows keep their order: runs follow from it.
        order = (
            np.arange(len(labels))
            if continuous
            else np.asarray(sorted(range(len(labels)), key=labels.__getitem__), np.int64)
        )
        unit = unit_rows(embeddings, read)[order] if parts else embeddings
        runs = label_runs([labels[row] for row in order])
        starts = np.cumsum([0, *(run.count for run in runs)])
        sums = np.zeros((len(runs), network.embedding_size))
        for number in range(len(runs)):
            sums[number] = unit[starts[number] : starts[number + 1]].astype(np.float64).sum(axis=0)
        EmbeddedShard(
            embeddings=unit,
            positions=np.asarray(positions, np.int64)[order],
            image_hashes=hash_rows(hashes)[order],
            labels=tuple((run.name, run.count) for run in runs),
            sums=sums,
            values=np.asarray(values, np.float64) if continuous else None,
            skipped=tuple(skipped),
            clipped=clipped,
        ).save(task.out)

    def direct(self, task: BlockTask) -> int:
        """Directions of rows that are compared with each other alone; returns the fallbacks."""
        embeddings: Floats = gather("embeddings", task.pieces)
        objective = self._setting.objective
        if isinstance(objective, KernelObjective):
            assert task.values is not None
            # A block of one value says nothing of what raises it.
            directions = (
                Directions(np.zeros_like(embeddings))
                if task.values.min() == task.values.max()
                else objective.directions(embeddings, task.values)
            )
        else:
            assert task.classes is not None
            directions = objective.directions(embeddings, task.classes)
        write_arrays(
            task.out, {"directions": directions.values}, {"fallback_rows": directions.fallback_rows}
        )
        return directions.fallback_rows

    def pull(self, task: PullTask) -> None:
        """Second pass: pull a shard's directions through the head and write its grad-weights.

        A linear head needs no image for it.

        Raises:
            FoldcamError: an image that could be read cannot be read any more.
        """
        network = self._network()
        shard = EmbeddedShard.load(task.embedded)
        directions = np.zeros_like(shard.embeddings)
        for part in task.directed:
            source = part.source
            directions[part.rows] = (
                gather("directions", [source]) if isinstance(source, Rows) else source
            )
        if self._setting.linear:
            images, _ = read_arrays(self._setting.probe)
            probe = network.forward(torch.from_numpy(images["images"]))
            pulled = (
                pull_back_anywhere(network, probe, directions)
                if shard.rows
                else np.zeros((0, network.feature_map_shape[0]), np.float32)
            )
        else:
            pulled = self._at_each_image(network, task.shard, shard, directions)
        kept = keep_channels(pulled, self._setting.channel_rule)
        write_arrays(task.out, {"grad_weights": scaled_to_unit_maximum(kept)}, {})

    def _at_each_image(
        self, network: Network, source: Shard, shard: EmbeddedShard, directions: Floats
    ) -> Floats:
        row_of = {int(position): row for row, position in enumerate(shard.positions)}
        pulled = np.empty((shard.rows, network.feature_map_shape[0]), np.float32)
        for batch in shard_batches(source, self._setting.preprocessing, self._setting.batch_size):
            wanted = [n for n, p in enumerate(batch.loaded.positions) if p in row_of]
            if not wanted:
                continue
            rows = [row_of.pop(batch.loaded.positions[n]) for n in wanted]
            activations = network.forward(batch.loaded.images[wanted])
            images = [batch.samples[n] for n in wanted]
            pulled[rows] = pull_back(network, activations, directions[rows], images)
        if row_of:
            raise FoldcamError(
                f"{len(row_of)} images of {source.name} could be read at first and now cannot: "
                "run the command again when they can."
            )
        return pulled

    def _network(self) -> Network:
        if self._loaded is None:
            setting = self._setting
            if not setting.probe.is_file():
                raise FoldcamError(
                    f"A worker does not see {setting.folder}, where the shards are written: choose "
                    "a place for --out that every machine of the cluster mounts."
                )
            size = (setting.preprocessing.height, setting.preprocessing.width)
            network = self._recipe.load(size)
            found = network.sha256()
            if found != setting.network_sha256:
                raise FoldcamError(
                    f"A worker has another network: {self._recipe.spec} is {found[:12]}... there "
                    f"and {setting.network_sha256[:12]}... here; give every machine the same code "
                    "and the same weights."
                )
            self._loaded = network
        return self._loaded


def probe_of(
    shards: Sequence[Shard], preprocessing: Preprocessing, count: int
) -> npt.NDArray[np.float32]:
    """The first readable images, preprocessed, for trying the head on.

    Returns:
        `float32 [n, 3, H, W]`, n from 2 to `count`: one image alone is taken twice, because
        the head's answers are compared.

    Raises:
        FoldcamError: no image can be read.
    """
    reason = "there are none"
    for shard in shards:
        for batch in shard_batches(shard, preprocessing, count):
            if batch.samples:
                images: npt.NDArray[np.float32] = batch.loaded.images.numpy()
                return images if len(images) > 1 else images.repeat(2, axis=0)
            reason = batch.loaded.skipped[0].reason
    raise FoldcamError(f"None of the images could be read; the first: {reason}")
