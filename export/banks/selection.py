"""What is to be removed from a bank, as people name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.rows import held_hashes
from foldcam.export.datasets.reading import PHOTOGRAPH_DIGITS, picture_hash
from foldcam.export.datasets.samples import Box, plain_name
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file
from foldcam.runtime.system.text import quantity

_CROP = re.compile(r"-?\d+,-?\d+,\d+,\d+")


@dataclass(frozen=True)
class Selection:
    """What is to be removed.

    Attributes:
        labels: every row of these labels.
        images: rows of these image files, by hexadecimal SHA-256; of their crops, too.
        crops: rows of exactly these pictures, by the hash that `picture_hash` gives.
        names: rows of pictures that are called so, see `Bank.names`.
    """

    labels: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    crops: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def photographs(self) -> frozenset[str]:
        """What the hashes of all crops of the images begin with."""
        return frozenset(image[:PHOTOGRAPH_DIGITS] for image in self.images)

    def holds(self, picture: str) -> bool:
        """Whether a row of this hash is to be removed."""
        return picture in self.crops or picture[:PHOTOGRAPH_DIGITS] in self.photographs()


def selection_of(labels: Iterable[str], names: Iterable[str], bank: Bank) -> Selection:
    """What is to be removed from a bank, as people name it."""
    rows = held_hashes(bank)
    photographs = {row[:PHOTOGRAPH_DIGITS] for row in rows}
    called = bank.row_names()
    images, crops, chosen = set[str](), set[str](), set[str]()
    for name in map(str.strip, names):
        path, _, box = name.rpartition("#")
        crop = Box(*map(int, box.split(","))) if _CROP.fullmatch(box) else None
        whole = crop is None or Path(name).exists()
        matching = names_matching(name, called)
        try:
            (found,) = image_hashes_of([name if whole else path])
        except FoldcamError:
            if not matching:
                raise FoldcamError(_unknown(name, called)) from None
            chosen |= matching
            continue
        if not whole:
            found = picture_hash(found, crop)
        # A file that is no row's may only be called as one.
        if matching and found[:PHOTOGRAPH_DIGITS] not in photographs:
            chosen |= matching
        elif not whole or (found == name.lower() and found in rows):
            crops.add(found)
        else:
            images.add(found)
    return Selection(frozenset(labels), frozenset(images), frozenset(crops), frozenset(chosen))


def _unknown(name: str, called: Sequence[str]) -> str:
    """One sentence about a text that names nothing."""
    if not any(called):
        return (
            f"{name!r} is neither a readable image file nor a SHA-256 hash, and the bank does not "
            "know what its images are called: give the file."
        )
    meant = (
        likely_meant(name, called) or f"the first of its images is {next(filter(None, called))!r}."
    )
    return (
        f"{name!r} is neither a readable image file nor a SHA-256 hash, and no image of the bank "
        f"is called so: {meant}"
    )


def image_hashes_of(names: Iterable[str]) -> frozenset[str]:
    """Hashes of image files.

    Args:
        names: paths of files, or hexadecimal SHA-256 hashes.
    """
    found = set()
    for name in names:
        text = name.strip()
        if len(text) == 64 and not set(text.lower()) - set("0123456789abcdef"):
            found.add(text.lower())
            continue
        try:
            found.add(sha256_of_file(Path(text)))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise FoldcamError(
                f"{text!r} is neither a readable image file ({reason}) nor a SHA-256 hash: an "
                "image is known by its file's bytes."
            ) from None
    return frozenset(found)


_CROP_SUFFIX = re.compile(r"#-?\d+,-?\d+,\d+,\d+\Z")


def names_matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that a text stands for.

    Args:
        pattern: a name; a photograph's, which stands for all its crops, too; or a pattern of
            the whole name, in which `*`, `?` and `[...]` are within one folder and `**` is any
            number of folders.
    """
    text = plain_name(pattern.strip()).removeprefix("./")
    known = frozenset(names) - {""}
    exact = frozenset(name for name in known if text in (name, _CROP_SUFFIX.sub("", name)))
    if exact:
        return exact
    wanted = text.split("/")
    return frozenset(
        name
        for name in known
        if _matches(_CROP_SUFFIX.sub("", name).split("/"), wanted)
        or _matches(name.split("/"), wanted)
    )


def likely_meant(pattern: str, names: Sequence[str]) -> str:
    """`did you mean ...?` for a text that stands for no row; empty where nothing is near."""
    text = plain_name(pattern.strip()).removeprefix("./").rstrip("/")
    for wider in (f"**/{text}", f"{text}/**", f"**/{text}/**"):
        if found := names_matching(wider, names):
            return f"did you mean {wider!r} ({quantity(len(found), 'picture')})?"
    near = get_close_matches(text, sorted(frozenset(names) - {""}), 3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[start:], wanted[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
