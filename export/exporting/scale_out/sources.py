"""Training images wherever they lie, cut into shards: the units of work and of restart.

Reading a photograph has one implementation, which takes a file: what lies elsewhere is written to
a temporary one for as long as its shard is worked on.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath

import fsspec

from foldcam.export.datasets import URL, Dataset, Sample, SkippedFile, Split, load_dataset
from foldcam.export.datasets.labels import plain
from foldcam.export.datasets.samples import plain_name
from foldcam.runtime.images.files import IMAGE_SUFFIXES, natural_key
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_TARS = 1_000_000
_URLS_AT_ONCE = 8


@dataclass(frozen=True)
class Shard:
    """Images that one worker reads: `samples` in the data set's order, local files or URLs.

    Or path or URL of a WebDataset `tar`, whose labels are known only when it is read.
    """

    samples: tuple[Sample, ...] = ()
    tar: str = ""

    @property
    def name(self) -> str:
        """For messages."""
        ends = [sample.name for sample in (*self.samples[:1], *self.samples[1:][-1:])]
        return self.tar or " to ".join(ends)

    def stamp(self) -> str:
        """What changes when the images do: names, sizes and times; a URL's content is not read."""
        if not self.tar:
            return "".join(f"{_state(s)} {s.label} {s.value};" for s in self.samples)
        with _fetched(self.tar):
            system, path = fsspec.core.url_to_fs(self.tar)
            details = system.info(path)
        return f"{self.tar} {[details.get(n) for n in ('size', 'mtime', 'ETag', 'LastModified')]};"


@dataclass(frozen=True)
class ShardedData:
    """A data set as shards in its order; `listed` has the samples where they are known.

    `notes` say how it was understood, one sentence each.
    """

    name: str
    split: Split
    shards: tuple[Shard, ...]
    listed: tuple[Sample, ...] | None
    notes: tuple[str, ...] = ()


def sharded(
    name: str, split: Split, samples: tuple[Sample, ...], size: int, notes: tuple[str, ...] = ()
) -> ShardedData:
    """Shards of `size` consecutive images, the last one perhaps smaller."""
    shards = (Shard(samples[at : at + size]) for at in range(0, len(samples), size))
    return ShardedData(name, split, tuple(shards), samples, notes)


def load_sharded(text: str, split: Split, size: int, *, continuous: bool = False) -> ShardedData:
    """List a data set; raises as `load_dataset`, or for a URL that cannot be read.

    Args:
        text: what `load_dataset` takes, whose CSV may name images by URL; the URL of such a CSV; a
            `.tar`, a folder of them, or a URL of them in which `{000..099}` stands for numbers.
    """
    if tars := _tars(text):
        if continuous:
            raise FoldcamError(
                f"{text} holds .tar files, whose labels are read as classes: give a CSV for a "
                "continuous outcome."
            )
        name = Path(_BRACES.sub("", text)).name.removesuffix(".tar") or "tars"
        return ShardedData(name, split, tuple(Shard(tar=tar) for tar in tars), None)
    if URL.match(text):
        dataset = _remote_csv(text, split, continuous)
    else:
        dataset = load_dataset(Path(text), split, continuous=continuous, urls=True)
    # Workers may stand in another folder.
    samples = [s if s.url else replace(s, path=s.path.absolute()) for s in dataset.samples]
    return sharded(dataset.name, split, tuple(samples), size, dataset.notes)


@dataclass
class LocalShard:
    """A shard's images as files: those with a `url` are copies, and `failed` says what is not."""

    samples: list[Sample]
    failed: dict[Path, str] = field(default_factory=dict)

    def named(self, item: SkippedFile) -> SkippedFile:
        """A skipped image by where it comes from, and not by its temporary copy."""
        url = next((s.url for s in self.samples if s.path == item.path), None)
        if url is None:
            return item
        reason = self.failed.get(item.path) or item.reason.replace(str(item.path), url)
        return SkippedFile(Path(PurePosixPath(url).name), reason, url)


@contextmanager
def local_shard(shard: Shard) -> Iterator[LocalShard]:
    """Fetch a shard for as long as the block lasts; refuse a tar that is cut or lacks a label."""
    with tempfile.TemporaryDirectory(prefix="foldcam-") as name:
        folder = Path(name)
        if shard.tar:
            yield LocalShard(list(_members(shard.tar, folder)))
            return
        # A photograph of several crops is fetched once.
        copies = {s.url: folder / str(n) for n, s in enumerate(shard.samples) if s.url}
        samples = [replace(s, path=copies[s.url]) if s.url else s for s in shard.samples]
        local = LocalShard(samples)

        def fetch(url: str) -> None:
            try:
                copies[url].write_bytes(_read(url))
            except FoldcamError as error:
                local.failed[copies[url]] = str(error)

        with ThreadPoolExecutor(_URLS_AT_ONCE) as pool:
            list(pool.map(fetch, copies))
        yield local


def _read(url: str) -> bytes:
    with _fetched(url), fsspec.open(url, "rb") as stream:
        return bytes(stream.read())


@contextmanager
def _fetched(url: str) -> Iterator[None]:
    """Whatever a file system of fsspec raises, as one sentence."""
    try:
        yield
    except FoldcamError:
        raise
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2]
        raise FoldcamError(
            f"{url}: fsspec needs a package for {protocol}:// ({error}): install it on every "
            "machine."
        ) from None
    except tarfile.TarError as error:
        raise FoldcamError(
            f"{url} is not a complete .tar file ({error}): write that shard again."
        ) from None
    except Exception as error:  # every file system has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FoldcamError(f"{url} cannot be read ({reason[:200]}).") from None


def _state(sample: Sample) -> str:
    if sample.url:
        return sample.name
    try:
        status = sample.path.stat()
        return f"{sample.name} {status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return f"{sample.name} missing"


def _tars(text: str) -> list[str]:
    """The tars that a text names; empty if it names something else."""
    if text.endswith(".tar"):
        names = _expanded(text)
        return names if URL.match(text) else [str(Path(name).absolute()) for name in names]
    if _BRACES.search(text):
        raise FoldcamError(f"{text}: a pattern names .tar files, such as train-{{000..099}}.tar.")
    found = [] if URL.match(text) else sorted(Path(text).glob("*.tar"), key=natural_key)
    return [str(path.absolute()) for path in found]


def _expanded(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    first, last = match.groups()
    if not 0 <= int(last) - int(first) < _MOST_TARS:
        raise FoldcamError(f"{text}: {match[0]} names no files, or more than {_MOST_TARS:,}.")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    return [name for n in numbers for name in _expanded(_BRACES.sub(n, text, count=1))]


def _remote_csv(url: str, split: Split, continuous: bool) -> Dataset:
    """The data set of a CSV that is fetched; its relative paths are beside it."""
    if not url.partition("?")[0].endswith(".csv"):
        raise FoldcamError(
            f"{url} is neither a .csv nor .tar files: a URL names a CSV with path,label, or "
            "WebDataset shards."
        )
    base = url.rpartition("/")[0]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (base.rpartition("/")[2] + ".csv")
        copy.write_bytes(_read(url))
        try:
            dataset = load_dataset(copy, split, continuous=continuous, urls=True)
        except FoldcamError as error:
            raise FoldcamError(str(error).replace(str(copy), url)) from None
    samples = (
        replace(
            s,
            url=s.url or f"{base}/{s.path.relative_to(folder).as_posix()}",
            where=s.where.replace(str(copy), url),
        )
        for s in dataset.samples
    )
    notes = (note.replace(str(copy), url) for note in dataset.notes)
    return replace(dataset, samples=tuple(samples), notes=tuple(notes))


def _members(tar: str, folder: Path) -> Iterator[Sample]:
    """The images of a tar with their labels, each written to a file."""
    with (
        _fetched(tar),
        fsspec.open(tar, "rb") as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        files = (member for member in archive if member.isfile() and _key(member))
        for number, (key, members) in enumerate(groupby(files, _key)):
            group = {}
            for member in members:
                content = archive.extractfile(member)
                suffix = PurePosixPath(member.name).name.partition(".")[2].lower()
                group[f".{suffix}"] = (member.name, content.read() if content else b"")
            image = next((group[kind] for kind in group if kind in IMAGE_SUFFIXES), None)
            if image is not None:
                path = folder / f"{number}{PurePosixPath(image[0]).suffix}"
                path.write_bytes(image[1])
                name = plain_name(f"{PurePosixPath(tar.partition('?')[0]).name}/{image[0]}")
                label = _label(tar, key, group)
                yield Sample(path, label, url=f"{tar}#{image[0]}", relative=name)


def _key(member: tarfile.TarInfo) -> str:
    """A key ends at the first dot of the file's name, as WebDataset has it; empty: no key."""
    name = PurePosixPath(member.name)
    base = name.name.partition(".")[0]
    return base and str(name.parent / base)


def _label(tar: str, key: str, group: dict[str, tuple[str, bytes]]) -> str:
    try:
        found = group[".cls"][1] if ".cls" in group else group[".json"][1]
        text = found.decode("utf-8", "replace")
        label = plain(text if ".cls" in group else str(parse_json(text)["label"]))
    except (ValueError, KeyError, TypeError):
        label = ""
    if not label:
        raise FoldcamError(
            f"{tar}: {key} has no label: an image needs KEY.cls, or KEY.json with a "
            '"label", beside it.'
        )
    return label
