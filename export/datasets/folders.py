"""A folder of class folders, perhaps under folders of splits, or that of CUB-200-2011."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foldcam.export.datasets.samples import Box, Part, Reading, Sample, SkippedFile
from foldcam.export.datasets.splits import part_named
from foldcam.runtime.images.listing import LeftOut, sort_out
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

NO_CLASS = "in no class folder"
_SHOWN = 5


def summary(left_out: Sequence[SkippedFile], root: Path) -> list[str]:
    """A note: how many files and folders of which kind, and the first of them.

    Args:
        left_out: as the readers found them.
        root: what the names are shown relative to.
    """
    if not left_out:
        return []
    counts = Counter(item.reason for item in left_out)
    kinds = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    # One of each kind first: many hidden files must not conceal the one photograph.
    first = {item.reason: item for item in reversed(left_out)}
    ordered = [*first.values(), *(item for item in left_out if item is not first[item.reason])]
    names = ", ".join(_relative(item, root) for item in ordered[:_SHOWN])
    more = ", ..." if len(left_out) > _SHOWN else ""
    what = "file or folder was" if len(left_out) == 1 else "files and folders were"
    return [f"{len(left_out)} {what} left out ({kinds}): {names}{more}."]


def _relative(item: SkippedFile, root: Path) -> str:
    if item.url is None and item.path.is_relative_to(root):
        return str(item.path.relative_to(root))
    return item.place


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
    """The image files below a folder; links to folders are not followed."""
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


_PARTS: dict[str, Part] = {"1": "train", "0": "test"}


def read_cub(root: Path) -> Reading:
    """Read the lists. The boxes are where the birds are, and nothing is cut by them."""
    names = _table(root / "images.txt")
    classes = _table(root / "classes.txt")
    label_of = _table(root / "image_class_labels.txt")
    boxes = _table(root / "bounding_boxes.txt")
    in_training = _table(root / "train_test_split.txt")
    # Relative to it, pictures are called as in images.txt.
    reading = Reading(root=root / "images")
    for number, name in names.items():
        try:
            part = _PARTS[in_training[number].strip()]
            label = classes[label_of[number]]
            x, y, width, height = (float(value) for value in boxes[number].split())
        except (KeyError, ValueError) as error:
            raise FoldcamError(
                f"{root}: image {number} of images.txt has no valid entry in the other lists "
                f"({error})."
            ) from None
        reading.names.setdefault(part, [part])
        sample = Sample(root / "images" / name, label, Box(x, y, width, height))
        reading.samples.append((part, sample))
    return reading


def _table(path: Path) -> dict[str, str]:
    """Lines `key value...` of a CUB list."""
    refuse_special(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FoldcamError(f"{path} is missing from this CUB-200-2011 folder.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FoldcamError(f"{path} cannot be read ({error}).") from None
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
