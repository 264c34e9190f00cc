"""What a folder or a pattern holds: pictures, films, and what is left out, with the reason.

One function for everybody who looks for pictures, so that run, data sets and thumbnails take
the same files, and none of them leaves any out without a word.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from foldcam.runtime.images.format import FILM_SUFFIXES, HEAD_BYTES, IMAGE_SUFFIXES, image_format
from foldcam.runtime.system.errors import FoldcamError

EXAMPLES = 3
"""Files that a report names for each reason."""
# What archivers and disk stations leave beside pictures: their own copies of them.
_OF_SYSTEMS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
     "__pycache__"}
)  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that was looked at and not taken, and why, as a clause."""

    path: str
    reason: str


@dataclass
class Listing:
    """What is there, in an order that does not depend on the file system.

    Attributes:
        pictures: by their names; whether each can be read shows when it is.
        left_out: everything else, hidden files and links to folders included. What lies in a
            folder that was left out is not listed on its own.
    """

    pictures: list[Path] = field(default_factory=list)
    films: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def without_films(self) -> list[LeftOut]:
        """What is left out by whoever takes pictures alone."""
        films = [LeftOut(str(path), "a film, which is given by itself") for path in self.films]
        return sorted([*self.left_out, *films], key=lambda item: natural_key(PurePath(item.path)))


def sort_out(folder: Path | str, recursive: bool = True) -> Listing:
    """Sort a folder's files into pictures, films and the rest.

    Numbers sort by value (`2.jpg` before `10.jpg`). A link to a file is that file; one to a
    folder is not followed, for it may lead in circles or to everything there is.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FoldcamError(f"{folder} is not a folder.")

    def refuse(error: OSError) -> None:
        raise FoldcamError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found = Listing()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        entered: list[str] = []
        for name in folders:
            reason = _no_folder(Path(parent) / name, recursive)
            if reason is None:
                entered.append(name)
            elif reason:
                found.left_out.append(LeftOut(str(Path(parent) / name), reason))
        folders[:] = entered
        for name in names:
            _add(found, Path(parent) / name)
    return _in_order(found)


def sort_out_files(paths: Iterable[Path]) -> Listing:
    """As `sort_out`, of files that were named, such as those that a pattern matches.

    Whoever names a hidden file, or one without the name of a picture, wants it.
    """
    found = Listing()
    for path in paths:
        if path.is_dir():
            found.left_out.append(LeftOut(str(path), "a folder"))
        else:
            _add(found, path, named=True)
    return _in_order(found)


def list_images(folder: Path | str, recursive: bool = True) -> list[Path]:
    """The pictures of a folder alone, where nobody asks for the rest."""
    return sort_out(folder, recursive).pictures


def counted(left_out: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """By reason, for reports: how many, and the first few of them."""
    by_reason: dict[str, list[str]] = {}
    for item in left_out:
        by_reason.setdefault(item.reason, []).append(item.path)
    return [
        {"reason": reason, "count": len(paths), "examples": paths[:EXAMPLES]}
        for reason, paths in sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]


def in_words(counts: Iterable[dict[str, Any]]) -> list[str]:
    """One line per reason of `counted`: `5 hidden: a/.b.jpg, a/.c.jpg, a/.d.jpg, ...`."""
    return [
        f"{entry['count']} {entry['reason']}: {', '.join(entry['examples'])}"
        + (", ..." if entry["count"] > EXAMPLES else "")
        for entry in counts
    ]


def natural_key(path: PurePath) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Sorting key under which numbers within names count by value."""
    parts = [
        [
            (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold())
            for piece in re.split(r"(\d+)", part)
            if piece
        ]
        for part in path.parts
    ]
    # Names that differ only in case or leading zeros still need a fixed order.
    return parts, str(path)


def _no_folder(path: Path, recursive: bool) -> str | None:
    """Why a folder is not looked into; None if it is, empty if nobody expects that it is."""
    if path.name.startswith("."):
        return "hidden"
    if path.name.strip().casefold() in _OF_SYSTEMS:
        return "a folder of the system"
    if not recursive:
        return ""
    return "a link to a folder, which is not followed" if path.is_symlink() else None


def _add(found: Listing, path: Path, named: bool = False) -> None:
    reason = _no_file(path, named)
    suffix = path.suffix.lower()
    if reason is not None:
        found.left_out.append(LeftOut(str(path), reason))
    elif suffix in IMAGE_SUFFIXES:
        found.pictures.append(path)
    elif suffix in FILM_SUFFIXES:
        found.films.append(path)
    else:
        kind = _content(path)
        if kind is not None and (named or not suffix):
            found.pictures.append(path)
        elif kind is not None:
            reason = f"with the content of a picture ({kind}), and not the name of one ({suffix})"
            found.left_out.append(LeftOut(str(path), reason))
        else:
            reason = f"of a format that is not read ({suffix})" if suffix else "without a suffix"
            found.left_out.append(LeftOut(str(path), reason))


def _no_file(path: Path, named: bool) -> str | None:
    """Why something cannot be a file to be read, whatever it is called."""
    if path.name.startswith(".") and not named:
        return "hidden"
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link that leads nowhere" if path.is_symlink() else "not readable"
    return None if stat.S_ISREG(mode) else "no regular file"


def _content(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return image_format(stream.read(HEAD_BYTES))
    except OSError:
        return None


def _in_order(found: Listing) -> Listing:
    found.pictures.sort(key=natural_key)
    found.films.sort(key=natural_key)
    found.left_out.sort(key=lambda item: natural_key(PurePath(item.path)))
    return found
