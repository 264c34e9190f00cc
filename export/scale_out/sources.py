"""Training images wherever they lie, cut into shards: the units of work and of restart."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import fsspec

from export.datasets import URL, Dataset, Sample, Split, load_dataset
from runtime.errors import FoldcamError
from runtime.images import natural_key

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_TARS = 1_000_000


@dataclass(frozen=True)
class ListedShard:
    """Images that are known one by one.

    Attributes:
        samples: in the data set's order; local files, or URLs.
    """

    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        """For messages."""
        first, last = (sample.name for sample in self._ends())
        return first if first == last else f"{first} to {last}"

    def stamp(self) -> str:
        """What changes when the images do: their names, sizes and times.

        What lies behind a URL may change unseen.
        """
        lines = []
        for sample in self.samples:
            state = sample.name if sample.url else ""
            if not state:
                try:
                    status = sample.path.stat()
                    state = f"{sample.name} {status.st_size} {status.st_mtime_ns}"
                except (OSError, ValueError):  # ValueError: a null byte in the name
                    state = f"{sample.name} missing"
            lines.append(f"{state} {sample.label} {sample.value};")
        return "".join(lines)

    def _ends(self) -> tuple[Sample, Sample]:
        return self.samples[0], self.samples[-1]


@dataclass(frozen=True)
class TarShard:
    """A WebDataset shard: a tar with `KEY.jpg` and `KEY.cls` or `KEY.json` for each image.

    Its labels are known only when it is read.

    Attributes:
        url: what fsspec opens; a local path or a URL.
    """

    url: str

    @property
    def name(self) -> str:
        """For messages."""
        return self.url

    def stamp(self) -> str:
        """What changes when the file does, as far as its place tells without reading it."""
        try:
            system, path = fsspec.core.url_to_fs(self.url)
            details = system.info(path)
        except Exception as error:  # every file system has errors of its own
            raise unreadable(self.url, error) from None
        told = [str(details.get(name, "")) for name in ("size", "mtime", "ETag", "LastModified")]
        return f"{self.url} {' '.join(told)};"


Shard = ListedShard | TarShard


@dataclass(frozen=True)
class ShardedData:
    """A data set as a list of shards.

    Attributes:
        name: for the bank's origin.
        split: which part was taken.
        shards: in the data set's order.
        listed: the samples, where they are known before they are read.
        notes: how the data set was understood, one sentence each.
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
    shards = [ListedShard(samples[at : at + size]) for at in range(0, len(samples), size)]
    return ShardedData(name, split, tuple(shards), samples, notes)


def load_sharded(text: str, split: Split, size: int, *, continuous: bool = False) -> ShardedData:
    """Read or list a data set.

    Args:
        text: what `load_dataset` takes, whose CSV may name images by URL; the URL of such a
            CSV; a `.tar`, a folder of `.tar` files, or a URL of `.tar` files in which
            `{000..099}` stands for numbers.
        split: the part to take; of tars all of it.
        size: images per shard; of tars one shard is one file.
        continuous: whether labels are numbers.

    Raises:
        FoldcamError: as `load_dataset`; or a URL that cannot be read.
    """
    tars = _tars(text)
    if tars:
        if continuous:
            raise FoldcamError(
                f"{text} holds .tar files, whose labels are read as classes: give a CSV for a "
                "continuous outcome."
            )
        name = Path(_BRACES.sub("", text)).name.removesuffix(".tar") or "tars"
        return ShardedData(name, split, tuple(TarShard(url) for url in tars), None)
    if URL.match(text):
        fetched = _remote_csv(text, split, continuous)
        return sharded(fetched.name, split, fetched.samples, size, fetched.notes)
    dataset = load_dataset(Path(text), split, continuous=continuous, urls=True)
    # Workers may stand in another folder.
    local = [s if s.url else replace(s, path=s.path.absolute()) for s in dataset.samples]
    return sharded(dataset.name, split, tuple(local), size, dataset.notes)


def _tars(text: str) -> list[str]:
    """The tars that a text names; empty if it names something else."""
    if text.endswith(".tar") or _BRACES.search(text):
        if not text.endswith(".tar"):
            raise FoldcamError(
                f"{text}: a pattern names .tar files, such as train-{{000..099}}.tar."
            )
        names = _expanded(text)
        return names if URL.match(text) else [str(Path(name).absolute()) for name in names]
    folder = Path(text)
    if URL.match(text) or not folder.is_dir():
        return []
    found = sorted(folder.glob("*.tar"), key=natural_key)
    return [str(path.absolute()) for path in found]


def _expanded(text: str) -> list[str]:
    match = _BRACES.search(text)
    if match is None:
        return [text]
    first, last = match[1], match[2]
    if not 0 <= int(last) - int(first) < _MOST_TARS:
        raise FoldcamError(f"{text}: {match[0]} names no files, or more than {_MOST_TARS:,}.")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    return [
        name
        for number in numbers
        for name in _expanded(text[: match.start()] + number + text[match.end() :])
    ]


def _remote_csv(url: str, split: Split, continuous: bool) -> Dataset:
    """The data set of a CSV that is fetched; its relative paths are beside it."""
    if not url.partition("?")[0].endswith(".csv"):
        raise FoldcamError(
            f"{url} is neither a .csv nor .tar files: a URL names a CSV with path,label, or "
            "WebDataset shards."
        )
    data = read_url(url)
    base = url.rpartition("/")[0]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (base.rpartition("/")[2] + ".csv")
        copy.write_bytes(data)
        try:
            dataset = load_dataset(copy, split, continuous=continuous, urls=True)
        except FoldcamError as error:
            raise FoldcamError(str(error).replace(str(copy), url)) from None
        samples = [
            sample
            if sample.url
            else replace(sample, url=f"{base}/{sample.path.relative_to(folder).as_posix()}")
            for sample in dataset.samples
        ]
    return replace(dataset, samples=tuple(samples))


def read_url(url: str) -> bytes:
    """What a URL holds.

    Raises:
        FoldcamError: it cannot be read.
    """
    try:
        with fsspec.open(url, "rb") as stream:
            data: bytes = stream.read()
    except Exception as error:  # every file system has errors of its own
        raise unreadable(url, error) from None
    return data


def unreadable(url: str, error: Exception) -> FoldcamError:
    """One sentence for whatever a file system of fsspec raised."""
    if isinstance(error, ImportError):
        return _driver_missing(url, error)
    reason = " ".join(str(error).split()) or type(error).__name__
    return FoldcamError(f"{url} cannot be read ({reason[:200]}).")


def _driver_missing(url: str, error: ImportError) -> FoldcamError:
    protocol = url.partition("://")[0].rpartition("::")[2]
    return FoldcamError(
        f"{url}: fsspec needs a package for {protocol}:// ({error}): install it on every machine."
    )
