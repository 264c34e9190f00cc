"""What a command reads and what it writes, compared before any work: no output destroys an input.

Each command says what its flags name, and `check_outputs` refuses in one sentence where an output
is an input, or two outputs are one file: by real path and by inode, so that a link, a second name
or another spelling makes no difference.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from foldcam.runtime.system.errors import FoldcamError

# What lies in a folder of images and is read by its name; a model beside them is not.
_READ_BY_NAME = re.compile(
    r"\.(jpe?g|jfif|png|webp|bmp|tiff?|gif|avif|hei[cf]|jp2|p[gpn]m|csv|txt|np[yz]|tar|mp4|avi|mkv|"
    r"mov|mjpeg)",
    re.IGNORECASE,
)
# Where the weights of a network lie that has some outside of its file.
_WEIGHTS_BESIDE = (".data", "_data")
_MOST_CSV_BYTES = 256 << 20


class Read(NamedTuple):
    """An input: what it is, as in `the model`, and its path; None and what is no file count not."""

    what: str
    path: Path | str | None


class Written(NamedTuple):
    """An output file: the flag that names it, and its path; None counts not."""

    flag: str
    path: Path | str | None


def check_outputs(reads: Iterable[Read], writes: Iterable[Written]) -> None:
    """Refuse an output that is an input or another output; nothing is opened but CSV files."""
    inputs = [Read(what, Path(path)) for what, path in reads if path]
    before: list[tuple[Written, _Place]] = []
    for flag, named in writes:
        if not named:
            continue
        path = Path(named)
        place = _Place.of(path)
        for what, source in inputs:
            _compare(flag, path, place, what, Path(str(source)))
        for other, taken in before:
            if place.same_as(taken):
                both = f"{other.flag} and {flag}" if other.flag != flag else flag
                raise FoldcamError(
                    f"{both} would write one file, {path}: give each a name of its own."
                )
        before.append((Written(flag, path), place))


class _Place(NamedTuple):
    real: str
    inode: tuple[int, int] | None

    @classmethod
    def of(cls, path: Path) -> _Place:
        try:
            status = path.stat()
            inode = (status.st_dev, status.st_ino)
        except (OSError, ValueError):
            inode = None
        return cls(os.path.realpath(path) if "\0" not in str(path) else str(path), inode)

    def same_as(self, other: _Place) -> bool:
        return self.real == other.real or (self.inode is not None and self.inode == other.inode)


def _compare(flag: str, path: Path, place: _Place, what: str, source: Path) -> None:
    own = _Place.of(source)
    if place.same_as(own):
        raise FoldcamError(f"{flag} {path} is {what} itself: give another name.")
    for ending in _WEIGHTS_BESIDE:
        beside = _Place.of(source.with_name(source.name + ending)) if source.name else own
        if beside.inode is not None and place.same_as(beside):
            raise FoldcamError(f"{flag} {path} holds weights of {what}: give another name.")
    if place.inode is None:
        return  # what does not exist is no part of anything
    if source.suffix.lower() == ".csv":
        parts = _listed(source)
    elif own.inode is not None and source.is_dir() and _READ_BY_NAME.fullmatch(path.suffix):
        parts = _within(source)
    else:
        return
    if any(_Place.of(part).same_as(place) for part in parts):
        raise FoldcamError(f"{flag} {path} is a part of {what} {source}: give another name.")


def _within(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def _listed(table: Path) -> Iterator[Path]:
    """What a CSV names in its first column; one that cannot be read is for its reader to refuse."""
    try:
        if table.stat().st_size > _MOST_CSV_BYTES:
            return
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            for row in csv.reader(stream):
                if row and row[0] and "\0" not in row[0]:
                    yield table.parent / row[0]
    except (OSError, csv.Error):
        return


def network_file(model: str) -> Path:
    """The file that MODEL may name: it is written `FILE#OUTPUT` where several could be meant."""
    path = Path(model)
    return path if "#" not in model or path.exists() else Path(model.rpartition("#")[0])


def keep_network(flag: str, path: Path) -> None:
    """Refuse to replace a network by a folded model: only what foldcam wrote is replaced."""
    # Not above: every command imports this module, and these bring numpy and OpenCV.
    from foldcam.runtime.contract.onnx_file import is_folded, read_header

    if not path.is_file() or is_folded(path):
        return
    try:
        read_header(path)
    except FoldcamError:
        return  # no ONNX model, such as half of one
    raise FoldcamError(
        f"{flag} {path} is a network without a bank, which would be lost: give another name, "
        f"such as {folded_name(path)}."
    )


def folded_name(path: Path) -> Path:
    """A name for the folded model of a network that is none of its own: `net.folded.onnx`."""
    return path.with_suffix(".folded.onnx")
