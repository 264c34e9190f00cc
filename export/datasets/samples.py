"""What a data set is made of: labelled images, perhaps parts of photographs, and their names."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

LONGEST_NAME = 4096
"""Characters; Linux allows no longer path."""

# No text of UTF-8, and what separates names in a bank's file.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def relative_name(path: Path, root: Path) -> str:
    """A file's name below a folder, such as `anna/1.jpg`; links are not followed."""
    return plain_name(Path(os.path.relpath(path, root)).as_posix())


def url_name(url: str) -> str:
    """Host and path of a URL: user, password and query may hold a secret."""
    parts = urlsplit(url.rpartition("::")[2])
    return plain_name(f"{(parts.netloc or '').rpartition('@')[2]}{parts.path}")


def plain_name(text: str) -> str:
    """A name as it is stored and compared.

    NFC, as a Mac's archive writes `ü` as `u` and two dots; what is not UTF-8 is replaced; of
    a longer one the last `LONGEST_NAME` characters.
    """
    return unicodedata.normalize("NFC", _NOT_TEXT.sub("\ufffd", text))[-LONGEST_NAME:]


Part = Literal["train", "valid", "test"]
Split = Literal["train", "valid", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Box(NamedTuple):
    """A rectangle in an image: left, top, width and height in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Sample:
    """One labelled image: a photograph, or a part of one.

    Attributes:
        path: the image file.
        label: its class.
        box: where the object is, as the truth that maps are measured by; nothing is cut.
        value: its continuous outcome, such as a price, in place of a class.
        url: where it is fetched from, if it is no local file; `path` then only names it.
        crop: the part of the photograph that is the image, in whole pixels; None is all of it.
        where: file and line that name it, for messages.
        relative: the file's name relative to the data set's root, with `/`.
    """

    path: Path
    label: str
    box: Box | None = None
    value: float | None = None
    url: str | None = None
    crop: Box | None = None
    where: str = field(default="", compare=False)
    relative: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """What it is called in messages: `photo.jpg`, or `photo.jpg#10,20,64,128` of a crop."""
        place = self.url or str(self.path)
        return place if self.crop is None else f"{place}#{crop_text(self.crop)}"

    @property
    def row_name(self) -> str:
        """What a bank calls it: `anna/1.jpg`, or `anna/1.jpg#10,20,64,128` of a crop.

        Without a data set, the name of its file alone.
        """
        name = self.relative or plain_name(self.path.name)
        return name if self.crop is None else f"{name}#{crop_text(self.crop)}"

    @property
    def identity(self) -> tuple[str, Box | None]:
        """Equal for samples that are the same part of the same file."""
        return self.url or str(self.path), self.crop


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not in the data, and why.

    Attributes:
        reason: one sentence, or of a file that was left out a few words.
        url: where it is, if it is no local file; `path` then only names it.
    """

    path: Path
    reason: str
    url: str | None = None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return self.url or str(self.path)


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: the name of the folder or file.
        split: which part was taken.
        samples: in a fixed order.
        notes: how the data set was understood, one sentence each.
        left_out: what lies in the data set and is no image of it.
    """

    name: str
    split: Split
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[SkippedFile, ...] = ()


@dataclass
class Reading:
    """What one of the readers found, before a part is taken.

    Attributes:
        samples: each with its part of the data set; None belongs to every part.
        left_out: what lies there and is no image of the data set.
        notes: how it was understood.
        names: for each part what it is called there, such as `Training/`.
        root: the folder that the pictures' names are relative to.
    """

    samples: list[tuple[Part | None, Sample]] = field(default_factory=list)
    left_out: list[SkippedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    names: dict[Part, list[str]] = field(default_factory=dict)
    root: Path = Path()


def crop_text(crop: Box) -> str:
    """`10,20,64,128`: left, top, width and height."""
    return ",".join(f"{number:g}" if number < 1e6 else f"{number:.0f}" for number in crop)
