"""The pixels of a sample, and the hash by which it is known again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foldcam.export.datasets.samples import Box, Sample, crop_text
from foldcam.runtime.images.files import decode_image, image_bytes
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError

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


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A sample's file that was read and not decoded yet: its hash alone may say enough.

    Attributes:
        data: the file's bytes.
        file_sha256: of them.
    """

    sample: Sample
    data: bytes
    file_sha256: str

    @property
    def sha256(self) -> str:
        """The picture's, see `picture_hash`."""
        return picture_hash(self.file_sha256, self.sample.crop)

    def decoded(self) -> Picture:
        """The picture; the part of the photograph that the sample's crop names."""
        image = decode_image(self.data, self.sample.path)
        if self.sample.crop is None:
            return Picture(image, self.sha256)
        part, clipped = _cropped(image, self.sample, self.sample.crop)
        return Picture(part, self.sha256, clipped)


def open_picture(sample: Sample) -> PictureFile:
    """Read a sample's file, once for its hash and its pixels."""
    data = image_bytes(sample.path)
    return PictureFile(sample, data, hashlib.sha256(data).hexdigest())


def read_picture(sample: Sample) -> Picture:
    """Read and decode a sample, see `PictureFile.decoded`."""
    return open_picture(sample).decoded()


def _cropped(image: Image, sample: Sample, crop: Box) -> tuple[Image, bool]:
    """The part inside a box, and whether the box reaches beyond the photograph."""
    height, width = image.shape[:2]
    x, y, across, down = (int(number) for number in crop)
    left, top = max(x, 0), max(y, 0)
    right, lower = min(x + across, width), min(y + down, height)
    if right <= left or lower <= top:
        raise FoldcamError(
            f"{sample.where or sample.name}: the box {crop_text(crop)} lies outside the "
            f"photograph, which is {width} x {height} pixels."
        )
    clipped = (left, top, right, lower) != (x, y, x + across, y + down)
    return np.ascontiguousarray(image[top:lower, left:right]), clipped


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


def same_pictures(
    hashes: Sequence[str], labels: Sequence[str], names: Sequence[str] | None = None
) -> list[str]:
    """Notes on pictures that are there more than once.

    Args:
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
