"""The pixels of a sample, and the hash by which it is known again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldcam.export.datasets.samples import Box, Sample, crop_text
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.files import sha256_of_file

PHOTOGRAPH_DIGITS = 32
"""Hexadecimal digits of a picture's hash that all crops of one file have in common."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A sample that was read.

    Attributes:
        image: `uint8 [H, W, 3]` RGB, the crop where the sample is one.
        sha256: see `picture_hash`.
        clipped: whether its box reached beyond the photograph.
    """

    image: Image
    sha256: str
    clipped: bool = False


def read_picture(sample: Sample) -> Picture:
    """Read a sample; the part of the photograph that its crop names.

    Raises:
        FoldcamError: the file cannot be read, or the crop lies outside the photograph.
    """
    image = read_image(sample.path)
    digest = file_hash(sample.path)
    if sample.crop is None:
        return Picture(image, digest)
    height, width = image.shape[:2]
    x, y, across, down = (int(number) for number in sample.crop)
    left, top = max(x, 0), max(y, 0)
    right, lower = min(x + across, width), min(y + down, height)
    if right <= left or lower <= top:
        raise FoldcamError(
            f"{sample.where or sample.name}: the box {crop_text(sample.crop)} lies outside the "
            f"photograph, which is {width} x {height} pixels."
        )
    clipped = (left, top, right, lower) != (x, y, x + across, y + down)
    part = np.ascontiguousarray(image[top:lower, left:right])
    return Picture(part, picture_hash(digest, sample.crop), clipped)


def file_hash(path: Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        FoldcamError: it cannot be read.
    """
    try:
        return sha256_of_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FoldcamError(f"{path} cannot be read: {reason}.") from None


def picture_hash(file_sha256: str, crop: Box | None) -> str:
    """64 hexadecimal digits by which a picture is known again.

    Of a whole photograph it is its file's SHA-256. Of a crop the first half is that of the
    file's, so that all crops of a photograph are found by it, and the second half is the
    first of a SHA-256 over file and box.
    """
    if crop is None:
        return file_sha256
    whole = hashlib.sha256(f"{file_sha256} {crop_text(crop)}".encode()).hexdigest()
    return file_sha256[:PHOTOGRAPH_DIGITS] + whole[:PHOTOGRAPH_DIGITS]


def sample_hash(sample: Sample) -> str:
    """The picture's hash without decoding it.

    Raises:
        FoldcamError: the file cannot be read.
    """
    return picture_hash(file_hash(sample.path), sample.crop)


def same_pictures(
    hashes: Sequence[str], labels: Sequence[str], names: Sequence[str] | None = None
) -> list[str]:
    """Notes on pictures that are there more than once.

    Args:
        hashes: the hash of each picture.
        labels: the label of each, or its value as text.
        names: the name of each; None takes the beginning of the hash.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, digest in enumerate(hashes):
        groups[digest].append(number)
    several = [group for group in groups.values() if len(group) > 1]
    clash = [group for group in several if len({labels[n] for n in group}) > 1]
    again = sum(len(group) - 1 for group in several) - sum(len(group) - 1 for group in clash)
    notes = []
    if clash:
        called = [f"SHA-256 {digest[:12]}..." for digest in hashes] if names is None else names
        shown = "; ".join(
            " and ".join(f"{called[n]} ({labels[n]})" for n in _one_of_each(group, labels))
            for group in clash[:3]
        )
        more = f"; and {len(clash) - 3} more" if len(clash) > 3 else ""
        notes.append(
            f"The same picture under different labels, {len(clash)} "
            f"time{'s' if len(clash) > 1 else ''}: {shown}{more}; leave it under the right one."
        )
    if again:
        notes.append(
            f"{again} picture{'s are' if again > 1 else ' is'} there a second time under the same "
            "label."
        )
    return notes


def clipped_notes(count: int) -> list[str]:
    """A note on boxes that reached beyond their photograph; nothing for none."""
    if not count:
        return []
    return [
        f"{count} box{'es reach' if count > 1 else ' reaches'} beyond the photograph, and the part "
        "inside was taken."
    ]


def _one_of_each(group: list[int], labels: Sequence[str]) -> list[int]:
    """The first of up to three labels."""
    return list({labels[n]: n for n in reversed(group)}.values())[:3]
