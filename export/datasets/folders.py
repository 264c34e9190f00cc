"""A folder of class folders, perhaps under folders of splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from export.datasets.left_out import (
    BROKEN_LINK,
    HIDDEN,
    LINK,
    NO_CLASS,
    SPECIAL,
    other_format,
    stray,
)
from export.datasets.samples import Part, Reading, Sample, SkippedFile
from export.datasets.splits import part_named
from runtime.errors import FoldcamError
from runtime.images import IMAGE_SUFFIXES, natural_key


@dataclass
class Tree:
    """The image files below a folder, in a fixed order, and what else is there."""

    images: list[Path] = field(default_factory=list)
    left_out: list[SkippedFile] = field(default_factory=list)


def read_folders(root: Path) -> Reading:
    """Read class folders.

    The folders at the top are splits where all of them have a split's name; where one stands
    beside a class folder, it is a class.

    Raises:
        FoldcamError: a folder that cannot be read, or whose name is blank.
    """
    if not root.is_dir():
        raise FoldcamError(f"{root} is neither a folder nor a file.")
    reading = Reading()
    folders = _class_folders(root, reading)
    parts = {folder: part_named(folder.name) for folder in folders}
    if folders and all(parts.values()):
        for folder, part in parts.items():
            if part is not None:
                reading.names.setdefault(part, []).append(f"{readable(folder.name)}/")
                _read_classes(_class_folders(folder, reading), part, reading)
        return reading
    _read_classes(folders, None, reading)
    named = [folder.name for folder, part in parts.items() if part is not None]
    if named:
        others = [folder.name for folder, part in parts.items() if part is None]
        reading.notes.append(
            f"{', '.join(f'{readable(name)}/' for name in named)} lies beside "
            f"{', '.join(f'{readable(name)}/' for name in others[:3])}"
            f"{', ...' if len(others) > 3 else ''} and was taken for a label, not for a split: "
            "splits are the only folders at the top."
        )
    return reading


def tree_of(folder: Path, recursive: bool = True) -> Tree:
    """The image files below a folder; links to folders are not followed.

    Raises:
        FoldcamError: a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise FoldcamError(f"{error.filename} cannot be read: {error.strerror}.") from error

    tree = Tree()
    for parent, folders, names in os.walk(folder, onerror=refuse):
        inner = []
        for name in sorted(folders):
            path = Path(parent) / name
            reason = stray(name) or (LINK if path.is_symlink() else None)
            if reason is not None:
                tree.left_out.append(SkippedFile(path, reason))
            else:
                inner.append(name)
        folders[:] = inner if recursive else []
        for name in sorted(names):
            path = Path(parent) / name
            reason = not_read(path)
            if reason is None:
                tree.images.append(path)
            else:
                tree.left_out.append(SkippedFile(path, reason))
    tree.images.sort(key=natural_key)
    return tree


def not_read(path: Path) -> str | None:
    """Why a file is no image by its name and kind; None if it is one."""
    if path.name.startswith("."):
        return HIDDEN
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return other_format(path)
    if path.is_file():
        return None
    return BROKEN_LINK if path.is_symlink() else SPECIAL


def readable(name: str) -> str:
    """A file name as text that can be stored: bytes that are not UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _class_folders(root: Path, reading: Reading) -> list[Path]:
    """The folders in a folder; whatever else is there is left out."""
    folders = []
    for path in sorted(_entries(root)):
        reason = stray(path.name) if path.is_dir() else not_read(path) or NO_CLASS
        if reason is None:
            folders.append(path)
        else:
            reading.left_out.append(SkippedFile(path, reason))
    return folders


def _entries(root: Path) -> Iterator[Path]:
    try:
        yield from root.iterdir()
    except OSError as error:
        raise FoldcamError(f"{root} cannot be read: {error.strerror}.") from error


def _read_classes(folders: list[Path], part: Part | None, reading: Reading) -> None:
    empty = []
    for folder in folders:
        label = readable(folder.name)
        if not label.strip():
            raise FoldcamError(f"{str(folder)!r}: a class folder's name is blank: give it a name.")
        tree = tree_of(folder)
        reading.left_out += tree.left_out
        reading.samples += [(part, Sample(image, label)) for image in tree.images]
        if not tree.images:
            empty.append(f"{label!r}{_instead(tree)}")
    if empty:
        more = f", and {len(empty) - 10} more" if len(empty) > 10 else ""
        reading.notes.append(
            f"{', '.join(empty[:10])}{more}: no image that foldcam reads is in "
            f"{'this class folder' if len(empty) == 1 else 'these class folders'}, so that the "
            f"{'label is' if len(empty) == 1 else 'labels are'} missing."
        )


def _instead(tree: Tree) -> str:
    if not tree.left_out:
        return " (empty)"
    count = len(tree.left_out)
    suffixes = sorted({item.path.suffix.lower() for item in tree.left_out} - {""})
    what = f"{count} other file{'' if count == 1 else 's'}"
    return f" ({what}{': ' + ', '.join(suffixes[:4]) if suffixes else ''})"
