"""Data sets: a folder of class folders, a CSV, or a CUB-200-2011 folder, as a list of samples."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from runtime.errors import FoldcamError
from runtime.files import refuse_special
from runtime.images import IMAGE_SUFFIXES, list_images

Split = Literal["train", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)
SingletonPolicy = Literal["refuse", "keep", "drop"]
SINGLETON_POLICIES: tuple[SingletonPolicy, ...] = get_args(SingletonPolicy)
URL = re.compile(r"[a-z][a-z0-9+.-]+(::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE)
"""What fsspec reads: `https://...`, `s3://...`, `simplecache::s3://...`."""
_LARGEST_VALUE = 3.4e38
_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train", "training": "train", "test": "test", "val": "test", "validation": "test"
}  # fmt: skip


class Box(NamedTuple):
    """An object's place in its image: left, top, width and height in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Attributes:
        path: the image file.
        label: its class.
        box: where the object is, where that is known.
        value: its continuous outcome, such as a price, in place of a class.
        url: where it is fetched from, if it is no local file; `path` then only names it.
    """

    path: Path
    label: str
    box: Box | None = None
    value: float | None = None
    url: str | None = None


@dataclass(frozen=True)
class SkippedFile:
    """An image that could not be read, and why.

    Attributes:
        path: the image file.
        reason: one sentence.
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
        name: of the folder or file.
        split: which part was taken.
        samples: in a fixed order.
    """

    name: str
    split: Split
    samples: tuple[Sample, ...]


def load_dataset(
    path: Path | str,
    split: Split = "train",
    *,
    continuous: bool = False,
    urls: bool = False,
) -> Dataset:
    """Read a data set of any of the known layouts.

    Args:
        path: a CUB-200-2011 folder (with `images.txt`); a CSV with the columns
            `path,label` and optionally `x,y,w,h` and `split`, paths relative to the
            file; or a folder of class folders, perhaps under `train/` and `test/`.
        split: the part to take. A data set without splits is all one part, which
            is taken whatever is asked for.
        continuous: whether labels are numbers; then each sample has its `value`.
        urls: whether a CSV may name images by URL; the caller fetches them.

    Raises:
        FoldcamError: no such path, an unknown layout, a malformed line, no images, a URL
            where none is fetched, or a label that is no finite number where `continuous`
            needs one.
    """
    path = Path(path)
    if not path.exists():
        raise FoldcamError(f"{path} does not exist.")
    if path.is_file():
        samples = _read_csv(path, split, continuous)
    elif (path / "images.txt").is_file():
        samples = _read_cub(path, split)
    else:
        samples = _read_folders(path, split)
    fetched = next((sample.url for sample in samples if sample.url), None)
    if fetched and not urls:
        raise FoldcamError(
            f"{path} names images by URL ({fetched}), which only foldcam bank build --engine ray "
            "fetches: download them, or build the bank with it and fold that."
        )
    if not samples:
        raise FoldcamError(
            f"{path} holds no labelled images of the split {split!r}: a data set is a folder with "
            "one folder of images per class, a CSV with path,label, or a CUB-200-2011 folder."
        )
    if continuous:
        samples = [
            replace(sample, value=_value(sample.label, f"{sample.path}"))
            if sample.value is None
            else sample
            for sample in samples
        ]
    return Dataset(_readable(path.resolve().name), split, tuple(samples))


def training_data(
    path: Path | str,
    split: Split = "train",
    *,
    singletons: SingletonPolicy = "refuse",
    continuous: bool = False,
) -> Dataset:
    """Read the images that a bank is built from.

    Args:
        path, split, continuous: as of `load_dataset`.
        singletons: see `handle_singletons`; a continuous outcome has no labels to count.

    Raises:
        FoldcamError: as `load_dataset` and `handle_singletons`.
    """
    dataset = load_dataset(path, split, continuous=continuous)
    if continuous:
        return dataset
    return replace(dataset, samples=handle_singletons(dataset.samples, singletons))


def handle_singletons(samples: tuple[Sample, ...], policy: SingletonPolicy) -> tuple[Sample, ...]:
    """What to do with labels that have one image.

    Such an image has nothing of its own label to be compared with: its direction
    rests on its own embedding against the others alone.

    Raises:
        FoldcamError: the policy is `refuse` and there are such labels.
    """
    counts = Counter(sample.label for sample in samples)
    single = [label for label, count in counts.items() if count == 1]
    if not single or policy == "keep":
        return samples
    if policy == "drop":
        return tuple(sample for sample in samples if counts[sample.label] > 1)
    shown = ", ".join(repr(label) for label in single[:5]) + (", ..." if len(single) > 5 else "")
    raise FoldcamError(
        f"{len(single)} label{'s have' if len(single) > 1 else ' has'} one image only ({shown}) "
        "and nothing of the same label to compare it with: add images, or pass --singletons drop "
        "to leave them out or --singletons keep to compare them with the other labels only."
    )


def _read_folders(root: Path, split: Split) -> list[Sample]:
    if not root.is_dir():
        raise FoldcamError(f"{root} is neither a folder nor a file.")
    folders = _visible_folders(root)
    if folders and all(folder.name.lower() in _SPLIT_FOLDERS for folder in folders):
        wanted = [f for f in folders if split == "all" or _SPLIT_FOLDERS[f.name.lower()] == split]
        folders = sorted(inner for folder in wanted for inner in _visible_folders(folder))
    return [
        Sample(image, _readable(folder.name))
        for folder in folders
        for image in list_images(folder, recursive=True)
    ]


def _visible_folders(root: Path) -> list[Path]:
    return sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def _readable(name: str) -> str:
    """A file name as text that can be stored: bytes that are not UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read_cub(root: Path, split: Split) -> list[Sample]:
    names = _cub_table(root / "images.txt")
    classes = _cub_table(root / "classes.txt")
    label_of = _cub_table(root / "image_class_labels.txt")
    boxes = _cub_table(root / "bounding_boxes.txt")
    in_training = _cub_table(root / "train_test_split.txt")
    samples = []
    for number, name in names.items():
        try:
            belongs = "train" if in_training[number] == "1" else "test"
            label = classes[label_of[number]]
            x, y, width, height = (float(value) for value in boxes[number].split())
        except (KeyError, ValueError) as error:
            raise FoldcamError(
                f"{root}: image {number} of images.txt has no valid entry in the other lists "
                f"({error})."
            ) from None
        if split in ("all", belongs):
            samples.append(Sample(root / "images" / name, label, Box(x, y, width, height)))
    return samples


def _cub_table(path: Path) -> dict[str, str]:
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


def _read_csv(path: Path, split: Split, continuous: bool) -> list[Sample]:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise FoldcamError(f"{path} is one image; a data set is a folder or a CSV with path,label.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=_delimiter(stream.readline()))
            stream.seek(0)
            # Spreadsheets and people write `Path; Label`.
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            columns = set(reader.fieldnames)
            if not {"path", "label"} <= columns:
                raise FoldcamError(
                    f"{path}: its first line must name the columns path,label (and optionally "
                    "x,y,w,h and split)."
                )
            boxed = {"x", "y", "w", "h"} <= columns
            return [
                _csv_sample(path, reader.line_num, row, boxed, continuous)
                for row in reader
                if split == "all" or (row.get("split") or split) == split
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FoldcamError(f"{path} is not a readable CSV file ({error}).") from None


def _delimiter(header: str) -> str:
    """What separates the columns: spreadsheets of many countries write semicolons."""
    return max(",;\t", key=header.count)


def _csv_sample(
    path: Path, line: int, row: dict[str, str | None], boxed: bool, continuous: bool
) -> Sample:
    image, label = (row["path"] or "").strip(), (row["label"] or "").strip()
    if not image or not label:
        raise FoldcamError(f"{path}, line {line}: path or label is empty.")
    box = None
    values = [row[name] for name in ("x", "y", "w", "h")] if boxed else []
    if any(values):
        try:
            x, y, width, height = (float(value or "") for value in values)
            if not all(map(math.isfinite, (x, y, width, height))):
                raise ValueError
        except ValueError:
            raise FoldcamError(f"{path}, line {line}: x,y,w,h are not four numbers.") from None
        box = Box(x, y, width, height)
    number = _value(label, f"{path}, line {line}") if continuous else None
    url = image if URL.match(image) else None
    return Sample(path.parent / image, label, box, number, url)


def _value(label: str, where: str) -> float:
    try:
        value = float(label) if "_" not in label else math.nan
    except ValueError:
        value = math.nan
    # Beyond this a bank's float32 is infinite.
    if not abs(value) < _LARGEST_VALUE:
        raise FoldcamError(
            f"{where}: the label {label[:40]!r} is not a finite number, and a continuous outcome "
            "needs one."
        )
    return value
