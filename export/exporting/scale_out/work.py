"""What one worker does with one shard, and the checked file that it leaves."""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foldcam.export.banks.arrays import load_arrays, save_arrays
from foldcam.export.banks.embedding_pass import EmbeddingPass, batches
from foldcam.export.banks.head_trial import FeatureCache
from foldcam.export.banks.numbers import check_finite, unit_rows
from foldcam.export.banks.steps import hash_rows, second_pass
from foldcam.export.datasets import SkippedFile
from foldcam.export.exporting.scale_out.sources import Shard, local_shard
from foldcam.export.models.spec import load_model
from foldcam.export.networks.cut import Network
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Task:
    """A shard and the file to write; in the second pass `int64 [n]` images, `float32 [n, D]`."""

    shard: Shard
    out: Path
    positions: Integers | None = None
    directions: Floats | None = None


@dataclass
class Worker:
    """A process that has the network; one that was killed and started again loads it again.

    Attributes:
        spec, weights, output, layer: how any process of any machine loads the network.
        modules: folder where `package.module:factory` is looked for beside the import path.
        network_sha256: of the network that every worker must have.
        preprocessing, batch_size: how images become its input, and how many at once.
        folder: where the shards' files are, which every worker must see.
    """

    spec: str
    weights: Path | None
    output: str | None
    layer: str
    modules: str
    network_sha256: str
    preprocessing: Preprocessing
    batch_size: int
    folder: Path

    def ready(self) -> None:
        """Load the network; refuse another one than the driver's, and a folder not found here."""
        _ = self._network

    def embed(self, task: Task) -> None:
        """First pass: write a shard's rows, in the data set's order, unless they are not finite."""
        parts = [np.zeros((0, self._network.embedding_size), np.float32)]
        found = EmbeddingPass()
        with local_shard(task.shard) as local:
            for batch in batches(local.samples, self.preprocessing, self.batch_size):
                found.positions += batch.positions
                found.hashes += batch.hashes
                found.skipped += map(local.named, batch.skipped)
                found.clipped += batch.clipped
                if batch.positions:
                    activations = self._network.forward(batch.images)
                    parts.append(activations.embedding.numpy())
                    found.add_maps(activations.feature_map.numpy())
            kept = [local.samples[position] for position in found.positions]
        embeddings = np.concatenate(parts)
        check_finite(embeddings, kept)
        texts = {
            "labels": [sample.label for sample in kept],
            "names": [sample.name for sample in kept],
            "row_names": [sample.row_name for sample in kept],
            "wanted": sorted({sample.label for sample in local.samples}),
            "skipped": [[str(item.path), item.reason, item.url] for item in found.skipped],
            "clipped": found.clipped,
        }
        arrays: Arrays = {
            "embeddings": unit_rows(embeddings, kept),
            "positions": np.asarray(found.positions, np.int64),
            "image_hashes": hash_rows(found.hashes),
            "values": np.asarray([s.value for s in kept], np.float64),
            "summed": np.zeros(()) if found.summed is None else found.summed,
            "texts": np.asarray(json.dumps(texts)),
        }
        save_arrays(task.out, arrays)

    def pull(self, task: Task) -> None:
        """Second pass: pull directions through the head at each image, which must be there yet."""
        assert task.positions is not None
        assert task.directions is not None
        found = EmbeddingPass(positions=task.positions.tolist())
        with local_shard(task.shard) as local:
            paths = [local.samples[place].path for place in found.positions]
            if lost := [local.failed[path] for path in paths if path in local.failed]:
                raise FoldcamError(f"{lost[0]} It could be read at first: run the command again.")
            pulled = second_pass(
                self._network, self.preprocessing, local.samples, found, task.directions,
                FeatureCache(), self.batch_size, None,
            )  # fmt: skip
        save_arrays(task.out, {"grad_weights": pulled})

    def peak_bytes(self) -> int:
        """The most memory that this process has held so far; Linux counts in kibibytes."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @cached_property
    def _network(self) -> Network:
        if not self.folder.is_dir():
            raise FoldcamError(
                f"A worker does not see {self.folder}, where the shards are written: choose a "
                "place for --out that every machine of the cluster mounts."
            )
        if self.modules not in sys.path:
            sys.path.append(self.modules)
        size = (self.preprocessing.height, self.preprocessing.width)
        network = load_model(self.spec, self.weights, self.output).network(self.layer, size)
        found = network.sha256()
        if found != self.network_sha256:
            raise FoldcamError(
                f"A worker has another network: {self.spec} is {found[:12]}... there and "
                f"{self.network_sha256[:12]}... here; give every machine the same code and the "
                "same weights."
            )
        return network


@dataclass(frozen=True)
class ShardRows:
    """What the first pass found: n rows, labels of all images, and what could not be read.

    `arrays` are `embeddings` `float32 [n, D]` of norm 1, `positions` `int64 [n]` in the shard,
    `image_hashes` `uint8 [n, 32]`, `values` `float64 [n]`, NaN of a label, and `summed`
    `float64 [K', h, w]`, the sum of the feature maps; `clipped` counts
    boxes that reached beyond their photograph.
    """

    arrays: Arrays
    labels: list[str]
    names: list[str]
    row_names: list[str]
    wanted: list[str]
    skipped: list[SkippedFile]
    clipped: int


def load_rows(path: Path) -> ShardRows:
    """What `Worker.embed` wrote; refuse a file that is missing, damaged or something else."""
    names = ("embeddings", "positions", "image_hashes", "values", "summed")
    arrays = load_arrays(path) or {}
    try:
        texts = parse_json(str(arrays.pop("texts")))
        skipped = [SkippedFile(Path(place), *rest) for place, *rest in texts.pop("skipped")]
        rows = ShardRows({name: arrays[name] for name in names}, **texts, skipped=skipped)
        # Each label once in memory, however many rows have it.
        labels = list(map(sys.intern, rows.labels))
        of_rows = [array for name, array in rows.arrays.items() if name != "summed"]
        lengths = {*map(len, of_rows), len(labels), len(rows.names), len(rows.row_names)}
    except (LookupError, ValueError, TypeError, AttributeError):
        raise damaged(path) from None
    if len(lengths) > 1:
        raise damaged(path)
    return replace(rows, labels=labels)


def load_pulled(path: Path, shape: tuple[int, int]) -> Floats:
    """Grad-weights that `Worker.pull` wrote, `float32 [n, K]` of that shape; else refuse."""
    pulled = (load_arrays(path) or {}).get("grad_weights")
    if pulled is None or pulled.shape != shape:
        raise damaged(path)
    return pulled


def damaged(path: Path) -> FoldcamError:
    """One sentence about a shard's file."""
    return FoldcamError(
        f"The shard {path} is damaged or missing: remove it and run foldcam bank build again, "
        "which makes that shard alone again."
    )
