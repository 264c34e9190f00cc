"""A folder of class folders, perhaps under folders of splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foldcam.export.datasets.left_out import NO_CLASS
from foldcam.export.datasets.samples import Part, Reading, Sample, SkippedFile
from foldcam.export.datasets.splits import part_named
from foldcam.runtime.images.listing import LeftOut, sort_out
from foldcam.runtime.system.errors import FoldcamError


@dataclass
class Tree:
    """The image files below a folder, in a fixed order, and what else is there."""

    images: list[Path] = field(default_factory=list)
    left_out: list[SkippedFile] = field(default_factory=list)


def read_folders(root: Path) -> Reading:
    """Read class folders.

    The folders at the top are splits where all of them have a split's name; where one stands
    beside a class folder, it is a class.
    """
    if not root.is_dir():
        raise FoldcamError(f"{root} is neither a folder nor a file.")
    reading = Reading(root=root)
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
    listing = sort_out(folder, recursive)
    return Tree(listing.pictures, _skipped(listing.without_films()))


def readable(name: str) -> str:
    """A file name as text that can be stored: bytes that are not UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _class_folders(root: Path, reading: Reading) -> list[Path]:
    """The folders in a folder; whatever else is there is left out."""
    listing = sort_out(root, recursive=False)
    loose = [LeftOut(str(path), NO_CLASS) for path in listing.pictures]
    found = _skipped([*listing.without_films(), *loose])
    reading.left_out += sorted(found, key=lambda item: item.path)
    apart = {item.path for item in found}
    return [path for path in sorted(root.iterdir()) if path.is_dir() and path not in apart]


def _skipped(left_out: list[LeftOut]) -> list[SkippedFile]:
    return [SkippedFile(Path(item.path), item.reason) for item in left_out]


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
