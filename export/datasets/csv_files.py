"""A CSV of images: path, label, and perhaps a box and a split."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from foldcam.export.datasets.labels import value_of
from foldcam.export.datasets.samples import Box, Part, Reading, Sample
from foldcam.export.datasets.splits import KNOWN, part_named
from foldcam.runtime.images.files import IMAGE_SUFFIXES
from foldcam.runtime.system.errors import FoldcamError

_KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
BOX_COLUMNS = "x,y,w,h or x,y,width,height or xmin,ymin,xmax,ymax or x1,y1,x2,y2"
USED = frozenset(name for kind in _KINDS for name in kind)


@dataclass(frozen=True)
class BoxColumns:
    """How a file gives boxes.

    Attributes:
        corners: whether the last two are the right and lower edge, not width and height.
    """

    names: tuple[str, str, str, str]
    corners: bool

    @property
    def text(self) -> str:
        """`x,y,w,h`."""
        return ",".join(self.names)

    def box(self, row: Mapping[str, str | None], where: str) -> Box | None:
        """The box of a row, None where all four cells are empty.

        Raises:
            FoldcamError: not four numbers, or a box of no area.
        """
        cells = [(row.get(name) or "").strip() for name in self.names]
        if not any(cells):
            return None
        try:
            x, y, right, lower = (float(cell) for cell in cells)
            if not all(map(math.isfinite, (x, y, right, lower))):
                raise ValueError
        except ValueError:
            raise FoldcamError(
                f"{where}: {self.text} are not four numbers ({', '.join(cells)})."
            ) from None
        width, height = (right - x, lower - y) if self.corners else (right, lower)
        if not (width > 0 and height > 0):
            raise FoldcamError(
                f"{where}: the box {self.text} = {','.join(cells)} has no area: "
                + (
                    "its right edge must lie right of its left one and its lower edge below its "
                    "upper one."
                    if self.corners
                    else "width and height must be above zero."
                )
            )
        if max(abs(x), abs(y), width, height) > 1e9:
            raise FoldcamError(f"{where}: the box {','.join(cells)} is larger than any picture.")
        return Box(x, y, width, height)


def box_columns(names: Sequence[str], where: str) -> BoxColumns | None:
    """Which columns of a header give a box; None if it has none."""
    there = set(names)
    found = [kind for kind in _KINDS if there >= set(kind)]
    if len(found) > 1:
        raise FoldcamError(
            f"{where}: its columns give boxes in two ways ({' and '.join(map(','.join, found))}): "
            "keep one of them."
        )
    if found:
        return BoxColumns(found[0], corners=found[0][2] in ("xmax", "x2"))
    # `width` and `height` alone are the picture's own size in many exports.
    begun = sorted(there & USED - {"width", "height", "w", "h"})
    if begun:
        raise FoldcamError(
            f"{where}: its columns {','.join(begun)} are a part of a box: a box needs the columns "
            f"{BOX_COLUMNS}."
        )
    return None


def crop_of(box: Box, where: str) -> Box:
    """A box in whole pixels."""
    left, top = round(box.x), round(box.y)
    width, height = round(box.x + box.width) - left, round(box.y + box.height) - top
    if width < 1 or height < 1:
        raise FoldcamError(
            f"{where}: the box {box.x:g},{box.y:g} of {box.width:g} x {box.height:g} is smaller "
            "than a pixel: boxes are given in pixels of the picture, not as fractions of it."
        )
    return Box(left, top, width, height)


BoxMeaning = Literal["crop", "truth"]
URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
"""What fsspec reads: `https://...`, `s3://...`, `simplecache::s3://...`."""

Row = dict[str, str]


def read_csv(path: Path, *, continuous: bool, boxes: BoxMeaning) -> Reading:
    """Read the rows of a CSV."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise FoldcamError(f"{path} is one image; a data set is a folder or a CSV with path,label.")
    text = _text(path)
    reading = Reading(root=path.parent)
    # Spreadsheets of many countries write semicolons.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            skipinitialspace=True,
            # Else a quotation mark that is never closed swallows the rest of the file.
            strict=True,
        )
        header = _header(path, next(rows, []))
        columns = box_columns(header, str(path))
        for cells in rows:
            where = f"{path}, line {rows.line_num}"
            row = _row(header, cells, where, delimiter)
            if row is not None:
                part = _part(row, where, reading)
                sample = _sample(path, row, columns, where, continuous, boxes)
                reading.samples.append((part, sample))
    except csv.Error as error:
        raise FoldcamError(
            f"{path}, line {rows.line_num} is not readable as CSV ({error}): look for a quotation "
            "mark that is not closed; one within a quoted cell is written twice."
        ) from None
    unused = [name for name in header if name and name not in {"path", "label", "split", *USED}]
    if columns is not None and boxes == "crop":
        boxed = sum(sample.crop is not None for _, sample in reading.samples)
        reading.notes.append(
            f"{boxed} of {len(reading.samples)} rows have a box ({columns.text}): each is that "
            "part of its photograph."
        )
    if unused:
        reading.notes.append(f"The columns {', '.join(unused[:10])} mean nothing here.")
    return reading


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FoldcamError(
            f"{path} is not a readable CSV file: line {line} is not UTF-8, which it has to be; "
            "save it as 'CSV UTF-8', or convert it: iconv -f CP1252 -t UTF-8."
        ) from None


def _header(path: Path, cells: list[str]) -> list[str]:
    # Spreadsheets and people write `Path; Label`.
    names = [cell.strip().lower() for cell in cells]
    if not {"path", "label"} <= set(names):
        raise FoldcamError(
            f"{path}: its first line must name the columns path,label (and optionally a box, "
            f"{BOX_COLUMNS}, and split)."
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise FoldcamError(f"{path}: its first line names the column {twice[0]} twice.")
    return names


def _row(header: list[str], cells: list[str], where: str, delimiter: str) -> Row | None:
    """A row by column; None of a line of blanks or separators alone."""
    cells = [cell.strip() for cell in cells]
    if not any(cells):
        return None
    # A text may have several lines; rows that an open quotation mark swallowed have columns.
    if any(delimiter in "".join(cell.splitlines()[1:]) for cell in cells):
        raise FoldcamError(
            f"{where}: a cell goes over several lines with separators in them: look for a "
            "quotation mark that is not closed where it should be."
        )
    extra = [cell for cell in cells[len(header) :] if cell]
    if extra:
        raise FoldcamError(
            f"{where} has {len(cells)} cells and the header {len(header)} columns "
            f"({extra[0][:40]!r} is too many): put a cell that holds a comma or another separator "
            'into quotation marks, as in "Smith, John".'
        )
    return dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))


def _part(row: Row, where: str, reading: Reading) -> Part | None:
    text = row.get("split", "")
    if not text:
        return None
    part = part_named(text)
    if part is None:
        raise FoldcamError(f"{where}: the split {text[:40]!r} is not known: write {KNOWN}.")
    written = reading.names.setdefault(part, [])
    if text not in written:
        written.append(text)
    return part


def _sample(
    path: Path,
    row: Row,
    columns: BoxColumns | None,
    where: str,
    continuous: bool,
    boxes: BoxMeaning,
) -> Sample:
    image, label = row["path"], row["label"]
    if not image or not label:
        raise FoldcamError(f"{where}: path or label is empty.")
    box = None if columns is None else columns.box(row, where)
    crop = None if box is None or boxes == "truth" else crop_of(box, where)
    return Sample(
        path=path.parent / image,
        label=label,
        box=box if boxes == "truth" else None,
        value=value_of(label, where) if continuous else None,
        url=image if URL.match(image) else None,
        crop=crop,
        where=where,
    )
