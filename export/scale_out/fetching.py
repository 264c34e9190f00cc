"""The images of a shard as local files, a few at a time, wherever they come from.

Reading a photograph has one implementation, which takes a file: what lies elsewhere is
written to a temporary one for as long as it is needed.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

import fsspec

from export.banks.embedding_pass import LoadedBatch, batches
from export.datasets import Sample, SkippedFile
from export.scale_out.sources import ListedShard, Shard, TarShard, read_url, unreadable
from runtime.errors import FoldcamError
from runtime.images import IMAGE_SUFFIXES
from runtime.preprocess import Preprocessing

_AT_ONCE = 8
"""URLs fetched at the same time."""


@dataclass(frozen=True)
class ShardBatch:
    """Preprocessed images of a shard.

    Attributes:
        loaded: as `embedding_pass.batches` gives them; positions count from the shard's
            first image, and skipped images are named by where they come from.
        samples: the images that were read, in that order.
    """

    loaded: LoadedBatch
    samples: list[Sample]


@dataclass(frozen=True)
class _Local:
    """Samples whose files are there, where each comes from, and what could not be fetched."""

    samples: list[Sample]
    places: list[str]
    failed: dict[int, str]


def shard_batches(shard: Shard, preprocessing: Preprocessing, size: int) -> Iterator[ShardBatch]:
    """Read a shard; the next batch is read while the last one is worked on.

    Args:
        shard: images that are listed, or a tar.
        preprocessing: how an image becomes the network's input.
        size: images per batch.

    Raises:
        FoldcamError: a tar that cannot be read, or an image in it without a label.
    """
    source = _read(shard, preprocessing, size)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, source, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, source, None)
            yield batch


def _read(shard: Shard, preprocessing: Preprocessing, size: int) -> Iterator[ShardBatch]:
    start = 0
    with tempfile.TemporaryDirectory(prefix="foldcam-") as folder:
        local = (
            _listed(shard, Path(folder), size)
            if isinstance(shard, ListedShard)
            else _from_tar(shard, Path(folder), size)
        )
        for group in local:
            (read,) = batches(group.samples, preprocessing, len(group.samples))
            skipped = [_named(item, group) for item in read.skipped]
            yield ShardBatch(
                replace(
                    read, positions=[start + place for place in read.positions], skipped=skipped
                ),
                [group.samples[place] for place in read.positions],
            )
            start += len(group.samples)


def _named(item: SkippedFile, group: _Local) -> SkippedFile:
    """A skipped image by where it comes from, and not by its temporary copy."""
    for number, sample in enumerate(group.samples):
        if sample.path == item.path and group.places[number] != str(item.path):
            place = group.places[number]
            reason = group.failed.get(number) or item.reason.replace(str(item.path), place)
            return SkippedFile(Path(PurePosixPath(place).name), reason, place)
    return item


def _listed(shard: ListedShard, folder: Path, size: int) -> Iterator[_Local]:
    for at in range(0, len(shard.samples), size):
        group = list(shard.samples[at : at + size])
        remote = {n: sample.url for n, sample in enumerate(group) if sample.url}
        failed: dict[int, str] = {}

        def fetch(
            number: int, remote: dict[int, str] = remote, failed: dict[int, str] = failed
        ) -> None:
            try:
                (folder / str(number)).write_bytes(read_url(remote[number]))
            except FoldcamError as error:
                failed[number] = str(error)

        if remote:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(fetch, remote))
        copies = [
            replace(sample, path=folder / str(n)) if n in remote else sample
            for n, sample in enumerate(group)
        ]
        yield _Local(copies, [s.url or str(s.path) for s in group], failed)
        for number in remote:
            (folder / str(number)).unlink(missing_ok=True)


def _from_tar(shard: TarShard, folder: Path, size: int) -> Iterator[_Local]:
    samples: list[Sample] = []
    places: list[str] = []
    for key, image, label in _members(shard):
        path = folder / f"{len(samples)}{PurePosixPath(image[0]).suffix}"
        path.write_bytes(image[1])
        samples.append(Sample(path, label, url=f"{shard.url}#{key}"))
        places.append(f"{shard.url}#{image[0]}")
        if len(samples) == size:
            yield _Local(samples, places, {})
            samples, places = [], []
    if samples:
        yield _Local(samples, places, {})


def _members(shard: TarShard) -> Iterator[tuple[str, tuple[str, bytes], str]]:
    """Key, image (its name and bytes) and label of each group of files of one key."""
    group: dict[str, tuple[str, bytes]] = {}
    current: str | None = None
    try:
        with (
            fsspec.open(shard.url, "rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            for member in archive:
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name)
                # A key ends at the first dot of the file's name, as WebDataset has it.
                base, _, kind = name.name.partition(".")
                if not base:
                    continue
                key = str(name.parent / base)
                if key != current:
                    if current is not None and (found := _complete(shard, current, group)):
                        yield found
                    current, group = key, {}
                content: IO[bytes] | None = archive.extractfile(member)
                group[f".{kind.lower()}"] = (member.name, content.read() if content else b"")
    except FoldcamError:
        raise
    except tarfile.TarError as error:
        raise FoldcamError(
            f"{shard.url} is not a complete .tar file ({error}): write that shard again."
        ) from None
    except Exception as error:  # every file system has errors of its own
        raise unreadable(shard.url, error) from None
    if current is not None and (found := _complete(shard, current, group)):
        yield found


def _complete(
    shard: TarShard, key: str, group: dict[str, tuple[str, bytes]]
) -> tuple[str, tuple[str, bytes], str] | None:
    """An image with its label; None where a key has no image."""
    image = next((group[suffix] for suffix in group if suffix in IMAGE_SUFFIXES), None)
    if image is None:
        return None
    label = ""
    if ".cls" in group:
        label = group[".cls"][1].decode("utf-8", "replace").strip()
    elif ".json" in group:
        try:
            document = json.loads(group[".json"][1])
            label = str(document["label"]).strip()
        except (ValueError, KeyError, TypeError):
            label = ""
    if not label:
        raise FoldcamError(
            f"{shard.url}: {key} has no label: an image needs KEY.cls, or KEY.json with a "
            '"label", beside it.'
        )
    return key, image, label
