"""Reading a data set of any of the known layouts, and saying how it was understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foldcam.export.datasets.csv_files import BoxMeaning, read_csv
from foldcam.export.datasets.folders import read_cub, read_folders, readable, summary
from foldcam.export.datasets.labels import (
    SingletonPolicy,
    handle_singletons,
    in_plain_form,
    twins,
    value_of,
)
from foldcam.export.datasets.samples import Dataset, Reading, Split, relative_name, url_name
from foldcam.export.datasets.splits import parts_text, take
from foldcam.runtime.system.errors import FoldcamError


def load_dataset(
    path: Path | str,
    split: Split = "train",
    *,
    continuous: bool = False,
    urls: bool = False,
    boxes: BoxMeaning = "crop",
) -> Dataset:
    """Read a data set of any of the known layouts.

    Args:
        path: a CUB-200-2011 folder (with `images.txt`); a CSV with the columns
            `path,label` and optionally a box and `split`, paths relative to the
            file; or a folder of class folders, perhaps under `train/` and `test/`.
        split: the part to take. A data set without splits is all one part, which
            is taken whatever is asked for; where there is no test part, `test` is the
            validation part.
        continuous: whether labels are numbers; then each sample has its `value`.
        urls: whether a CSV may name images by URL; the caller fetches them.
        boxes: what a CSV's boxes mean: `crop`, the part of the photograph that is the image,
            or `truth`, where the object is, for commands that measure maps by it. Those of
            CUB-200-2011 are always the truth.

    Raises:
        FoldcamError: no such path, an unknown layout, a malformed line, no images, a URL
            where none is fetched, or a label that is no finite number where `continuous`
            needs one.

    Example:
        >>> from foldcam import load_dataset
        >>> dataset = load_dataset("photos")
        >>> len(dataset.samples), sorted({sample.label for sample in dataset.samples})
        (24, ['blue', 'green', 'red'])
    """
    path = Path(path)
    if not path.exists():
        raise FoldcamError(f"{path} does not exist.")
    if path.is_file():
        reading = read_csv(path, continuous=continuous, boxes=boxes)
    elif (path / "images.txt").is_file():
        reading = read_cub(path)
    else:
        reading = read_folders(path)
    if not continuous:
        reading.samples, merged = in_plain_form(reading.samples)
        reading.notes += merged
    samples, parts = take(reading, split)
    fetched = next((sample.url for sample in samples if sample.url), None)
    if fetched and not urls:
        raise FoldcamError(
            f"{path} names images by URL ({fetched}), which only foldcam bank build --engine ray "
            "fetches: download them, or build the bank with it and fold that."
        )
    left_out = summary(reading.left_out, path)
    if not samples:
        raise FoldcamError(_nothing(path, split, reading, left_out))
    if continuous:
        samples = [
            replace(sample, value=value_of(sample.label, f"{sample.path}"))
            if sample.value is None
            else sample
            for sample in samples
        ]
    samples = [
        replace(s, relative=url_name(s.url) if s.url else relative_name(s.path, reading.root))
        for s in samples
    ]
    alike = [] if continuous else twins(sample.label for sample in samples)
    return Dataset(
        readable(path.resolve().name),
        split,
        tuple(samples),
        notes=(*parts, *reading.notes, *alike, *left_out),
        left_out=tuple(reading.left_out),
    )


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


def _nothing(path: Path, split: Split, reading: Reading, left_out: list[str]) -> str:
    text = (
        f"{path} holds no labelled images of the split {split!r}: a data set is a folder with "
        "one folder of images per class, a CSV with path,label, or a CUB-200-2011 folder."
    )
    if reading.samples:
        text = (
            f"{path} holds no labelled images of the split {split!r}: it has {parts_text(reading)};"
            " choose one of them with --split."
        )
    return " ".join([text, *left_out])
