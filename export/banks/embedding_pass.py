"""One pass of the network over the training images, in blocks that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from safetensors.numpy import save_file

from export.datasets import Sample, SkippedFile
from export.networks.cut import Activations, Network
from runtime.errors import FoldcamError
from runtime.files import atomic_path
from runtime.images import read_image
from runtime.preprocess import Preprocessing
from runtime.strict_json import parse_json

Floats = npt.NDArray[np.float32]
ProgressCallback = Callable[[int, int], None]
"""Called with images done and images in all."""

BLOCK = 128
"""Images per block on disk: what an interruption costs at most."""


@dataclass(frozen=True)
class LoadedBatch:
    """Preprocessed images and where they stand in the list of samples."""

    positions: list[int]
    images: torch.Tensor
    hashes: list[str]
    skipped: list[SkippedFile]


@dataclass
class EmbeddingPass:
    """What one pass found.

    Attributes:
        positions: which samples were read, in order.
        embeddings: `float32 [N, D]`, the network's own output.
        hashes: SHA-256 of each read file.
        skipped: samples that could not be read.
    """

    positions: list[int] = field(default_factory=list)
    embeddings: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    hashes: list[str] = field(default_factory=list)
    skipped: list[SkippedFile] = field(default_factory=list)


def batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    size: int,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[LoadedBatch]:
    """Read and preprocess samples[start:stop] in batches; unreadable ones are named, not fatal."""
    stop = len(samples) if stop is None else stop
    for first in range(start, stop, size):
        positions, images, hashes, skipped = [], [], [], []
        for position in range(first, min(first + size, stop)):
            path = samples[position].path
            try:
                image = read_image(path)
            except FoldcamError as error:
                skipped.append(SkippedFile(path, str(error)))
                continue
            resized, _ = preprocessing.resized(image)
            positions.append(position)
            images.append(preprocessing.normalized(resized))
            hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
        stacked = np.stack(images) if images else np.zeros((0, 3, 1, 1), np.float32)
        yield LoadedBatch(positions, torch.from_numpy(stacked), hashes, skipped)


def embed(
    network: Network,
    preprocessing: Preprocessing,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    resume_folder: Path | None = None,
    keep: Callable[[list[int], Activations], None] | None = None,
    progress: ProgressCallback | None = None,
) -> EmbeddingPass:
    """Embed every readable sample.

    Args:
        network: the cut network.
        preprocessing: how an image becomes its input.
        samples: what to embed.
        batch_size: images per forward pass.
        resume_folder: where finished blocks are kept until `forget`; a later call
            with the same network, preprocessing and files goes on from them.
        keep: given the positions and activations of each batch that is run.
        progress: told after each batch.

    Raises:
        FoldcamError: no sample could be read, or the embeddings are not finite.
    """
    folder = None
    if resume_folder is not None:
        folder = resume_folder / _fingerprint(network, preprocessing, samples)
    result = EmbeddingPass()
    parts: list[Floats] = []
    for start in range(0, len(samples), BLOCK):
        stop = min(start + BLOCK, len(samples))
        stored = folder / f"block-{start:09d}.safetensors" if folder else None
        block = _stored_block(stored)
        if block is None:
            block = EmbeddingPass()
            rows: list[Floats] = []
            for batch in batches(samples, preprocessing, batch_size, start, stop):
                if batch.positions:
                    activations = network.forward(batch.images)
                    rows.append(activations.embedding.numpy())
                    if keep:
                        keep(batch.positions, activations)
                block.positions += batch.positions
                block.hashes += batch.hashes
                block.skipped += batch.skipped
                if progress:
                    progress(start + len(block.positions) + len(block.skipped), len(samples))
            block.embeddings = (
                np.concatenate(rows) if rows else np.zeros((0, network.embedding_size), np.float32)
            )
            if stored:
                _store_block(stored, block)
        result.positions += block.positions
        result.hashes += block.hashes
        result.skipped += block.skipped
        parts.append(block.embeddings)
        if progress:
            progress(stop, len(samples))
    result.embeddings = np.concatenate(parts)
    if not result.positions:
        raise FoldcamError(
            f"None of the {len(samples)} images could be read; the first: "
            f"{result.skipped[0].reason}"
        )
    if not np.isfinite(result.embeddings).all():
        raise FoldcamError("The network gives embeddings that are not finite for some images.")
    return result


def probe_activations(
    network: Network, preprocessing: Preprocessing, samples: Sequence[Sample], count: int
) -> Activations | None:
    """Activations of the first few readable images; None if there are none."""
    for batch in batches(samples, preprocessing, count):
        if len(batch.positions) > 1 or (batch.positions and len(samples) <= count):
            return network.forward(batch.images)
    return None


def forget(resume_folder: Path) -> None:
    """Remove the blocks: the work is finished."""
    shutil.rmtree(resume_folder, ignore_errors=True)


def _fingerprint(network: Network, preprocessing: Preprocessing, samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(f"{network.sha256()} {network.layer} {preprocessing}".encode())
    for sample in samples:
        try:
            status = sample.path.stat()
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: a null byte in the name
            stamp = "missing"
        line = f"{sample.path} {stamp} {sample.label};"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _store_block(path: Path, block: EmbeddingPass) -> None:
    header = {
        "hashes": block.hashes,
        "skipped": [[str(item.path), item.reason] for item in block.skipped],
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "positions": np.asarray(block.positions, np.int64),
        "embeddings": np.ascontiguousarray(block.embeddings),
    }
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
