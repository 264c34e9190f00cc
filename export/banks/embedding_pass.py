"""One pass of the network over the training images, in blocks that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.numpy import save_file

from foldcam.export.banks.numbers import check_finite
from foldcam.export.datasets import Sample, SkippedFile
from foldcam.export.datasets.reading import open_picture
from foldcam.export.networks.cut import Activations, Network
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.strict_json import parse_json

LIMIT_BYTES = 1 << 30
"""Memory for kept pictures: about 7,000 of 224 x 224."""


@dataclass(frozen=True, eq=False)
class ReadyPicture:
    """A picture at the network's input size.

    Attributes:
        resized: `uint8 [H, W, 3]` RGB.
        sha256: see `export.datasets.reading.picture_hash`.
        clipped: whether its box reached beyond the photograph.
    """

    resized: npt.NDArray[np.uint8]
    sha256: str
    clipped: bool


class KeptPictures:
    """Keeps pictures from the first time that they are asked for to the last.

    Args:
        limit_bytes: what they may take; pictures beyond it are read again.
        to_the_end: samples that are asked for again until the end, and kept until then.
        twice: whether every other sample is asked for a second time, and kept until then.
    """

    def __init__(
        self,
        limit_bytes: int = LIMIT_BYTES,
        *,
        to_the_end: Iterable[Sample] = (),
        twice: bool = True,
    ) -> None:
        self._room = limit_bytes
        self._to_the_end = {sample.identity for sample in to_the_end}
        self._twice = twice
        self._kept: dict[object, ReadyPicture] = {}

    def get(
        self, sample: Sample, read: Callable[[Sample], ReadyPicture | None]
    ) -> ReadyPicture | None:
        """A sample's picture.

        Args:
            read: reads it, where it is not kept; None is not kept.
        """
        lasting = sample.identity in self._to_the_end
        kept = self._kept.get(sample.identity)
        if kept is not None:
            if not lasting:
                del self._kept[sample.identity]
                self._room += kept.resized.nbytes
            return kept
        picture = read(sample)
        if picture is None or not (lasting or self._twice):
            return picture
        if picture.resized.nbytes <= self._room:
            self._room -= picture.resized.nbytes
            self._kept[sample.identity] = picture
        return picture

    def held(self, sample: Sample) -> ReadyPicture | None:
        """A sample's picture where it is kept."""
        return self._kept.get(sample.identity)


Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
ProgressCallback = Callable[[int, int], None]
"""Called with images done and images in all."""

BLOCK = 128
"""Images per block on disk: what an interruption costs at most."""


@dataclass(frozen=True)
class LoadedBatch:
    """Preprocessed images and where they stand in the list of samples.

    Attributes:
        positions: the positions of the images that were read.
        images: `float32 [n, 3, H, W]`.
        hashes: the hash of each, see `export.datasets.reading.picture_hash`.
        skipped: images that could not be read.
        clipped: how many had a box that reached beyond their photograph.
        known: the positions of those that were left out by their hash.
    """

    positions: list[int]
    images: torch.Tensor
    hashes: list[str]
    skipped: list[SkippedFile]
    clipped: int = 0
    known: tuple[int, ...] = ()


@dataclass
class EmbeddingPass:
    """What one pass found.

    Attributes:
        positions: which samples were read, in order.
        embeddings: `float32 [N, D]`, the network's own output.
        hashes: the hash of each picture that was read, see `export.datasets.reading.picture_hash`.
        skipped: samples that could not be read.
        clipped: how many had a box that reached beyond their photograph.
        summed: `float64 [K', h, w]`, the sum of the feature maps of all that were read.
        known: samples that were left out by their hash, in order.
    """

    positions: list[int] = field(default_factory=list)
    embeddings: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    hashes: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)
    clipped: int = 0
    summed: Doubles | None = None
    known: list[int] = field(default_factory=list)

    def add_maps(self, maps: npt.NDArray[Any]) -> None:
        """Add feature maps `[n, K', h, w]` to the sum."""
        added = maps.sum(axis=0, dtype=np.float64)
        self.summed = added if self.summed is None else self.summed + added

    def mean_map(self) -> Floats | None:
        """`float32 [K', h, w]`, the mean of the feature maps."""
        if self.summed is None or not self.positions:
            return None
        mean: Floats = (self.summed / len(self.positions)).astype(np.float32)
        return mean


def batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    size: int,
    start: int = 0,
    stop: int | None = None,
    known: Collection[str] = (),
    kept: KeptPictures | None = None,
) -> Iterator[LoadedBatch]:
    """Read and preprocess samples[start:stop] in batches; unreadable ones are named, not fatal.

    Args:
        samples: what to read; each file is opened once.
        preprocessing: how an image becomes the network's input.
        size: images per batch at most.
        start, stop: the part of the samples.
        known: hashes of pictures that are left out, without decoding them.
        kept: has pictures from another pass, or keeps them for one.
    """

    def read(sample: Sample) -> ReadyPicture | None:
        file = open_picture(sample)
        if file.sha256 in known:
            return None
        picture = file.decoded()
        resized, _ = preprocessing.resized(picture.image)
        return ReadyPicture(resized, picture.sha256, picture.clipped)

    stop = len(samples) if stop is None else stop
    for first in range(start, stop, size):
        positions, images, hashes, skipped, clipped = [], [], [], [], 0
        left_out: list[int] = []
        for position in range(first, min(first + size, stop)):
            try:
                sample = samples[position]
                picture = read(sample) if kept is None else kept.get(sample, read)
            except FoldcamError as error:
                skipped.append(SkippedFile(samples[position].path, str(error)))
                continue
            if picture is None:
                left_out.append(position)
                continue
            positions.append(position)
            images.append(preprocessing.normalized(picture.resized))
            hashes.append(picture.sha256)
            clipped += picture.clipped
        stacked = np.stack(images) if images else np.zeros((0, 3, 1, 1), np.float32)
        yield LoadedBatch(
            positions, torch.from_numpy(stacked), hashes, skipped, clipped, tuple(left_out)
        )


def embed(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    resume_folder: Path | None = None,
    keep: Callable[[LoadedBatch, Activations, int], None] | None = None,
    known: Collection[str] = (),
    kept: KeptPictures | None = None,
    progress: ProgressCallback | None = None,
) -> EmbeddingPass:
    """Embed every readable sample.

    Args:
        preprocessing: how an image becomes its input.
        samples: what to embed.
        batch_size: images per forward pass.
        resume_folder: where finished blocks are kept until `forget`; a later call
            with the same network, preprocessing and files goes on from them.
        keep: given each batch that is run, its activations, and how many images were found
            before it, now or before an interruption.
        known: hashes of pictures that are left out.
        kept: pictures that another pass has read.
        progress: called after each batch.
    """
    folder = None
    if resume_folder is not None:
        folder = resume_folder / _fingerprint(network, preprocessing, samples, known)
    result = EmbeddingPass()
    parts: list[Floats] = []
    for start in range(0, len(samples), BLOCK):
        stop = min(start + BLOCK, len(samples))
        stored = folder / f"block-{start:09d}.safetensors" if folder else None
        block = _stored_block(stored)
        if block is None:
            block = EmbeddingPass()
            rows: list[Floats] = []
            for batch in batches(samples, preprocessing, batch_size, start, stop, known, kept):
                if batch.positions:
                    activations = network.forward(batch.images)
                    rows.append(activations.embedding.numpy())
                    block.add_maps(activations.feature_map.numpy())
                    if keep:
                        keep(batch, activations, len(result.positions) + len(block.positions))
                block.positions += batch.positions
                block.hashes += batch.hashes
                block.skipped += batch.skipped
                block.clipped += batch.clipped
                block.known += batch.known
                if progress:
                    done = len(block.positions) + len(block.skipped) + len(block.known)
                    progress(start + done, len(samples))
            block.embeddings = (
                np.concatenate(rows) if rows else np.zeros((0, network.embedding_size), np.float32)
            )
            if stored:
                _store_block(stored, block)
        result.positions += block.positions
        result.hashes += block.hashes
        result.skipped += block.skipped
        result.clipped += block.clipped
        result.known += block.known
        if block.summed is not None:
            result.add_maps(block.summed[None])
        parts.append(block.embeddings)
        if progress:
            progress(stop, len(samples))
    result.embeddings = np.concatenate(parts)
    if not result.positions and result.skipped:
        new = "new " if result.known else ""
        raise FoldcamError(
            f"None of the {len(result.skipped)} {new}images could be read; the first: "
            f"{result.skipped[0].reason}"
        )
    check_finite(result.embeddings, [samples[position] for position in result.positions])
    return result


def forget(resume_folder: Path) -> None:
    """Remove the blocks: the work is finished."""
    shutil.rmtree(resume_folder, ignore_errors=True)


def _fingerprint(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    known: Collection[str],
) -> str:
    digest = hashlib.sha256(
        f"{network.sha256()} {network.layer} {network.summands} {preprocessing}".encode()
    )
    digest.update("".join(sorted(known)).encode())
    for sample in samples:
        try:
            status = sample.path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a null byte in the name
            stamp = "missing"
        line = f"{sample.name} {stamp} {sample.label};"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _store_block(path: Path, block: EmbeddingPass) -> None:
    header = {
        "hashes": block.hashes,
        "skipped": [[str(item.path), item.reason] for item in block.skipped],
        "clipped": block.clipped,
        "known": block.known,
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "positions": np.asarray(block.positions, np.int64),
        "embeddings": np.ascontiguousarray(block.embeddings),
    }
    if block.summed is not None:
        arrays["summed"] = block.summed
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"block": json.dumps(header)})


def _stored_block(path: Path | None) -> EmbeddingPass | None:
    if path is None or not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            header = parse_json(stored.metadata()["block"])
            return EmbeddingPass(
                positions=[int(value) for value in stored.get_tensor("positions")],
                embeddings=stored.get_tensor("embeddings"),
                hashes=list(header["hashes"]),
                skipped=[SkippedFile(Path(p), reason) for p, reason in header["skipped"]],
                clipped=int(header["clipped"]),
                summed=stored.get_tensor("summed") if "summed" in stored.keys() else None,  # noqa: SIM118
                known=[int(position) for position in header["known"]],
            )
    except (
        safetensors.SafetensorError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ):
        # A damaged block is computed again.
        return None
