"""The data: houses with a price and four photographs each (Ahmed and Moustafa 2016).

Two layouts are read: `houses.csv` (columns `house` and `price_usd`) beside `images/`, and
the authors' own, `HousesInfo.txt` (one line per house: bedrooms, bathrooms, area, zip code,
price) beside the photographs. A photograph's name is `<house>_<kind>.jpg` in both.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldcam.export.datasets import Sample
from foldcam.runtime.images.files import IMAGE_SUFFIXES
from foldcam.runtime.system.errors import FoldcamError

KINDS = ("frontal", "kitchen", "bedroom", "bathroom")
_CSV = "houses.csv"
_TEXT = "HousesInfo.txt"
_TEST_SHARE = 0.2
# Enough for a bank to average over, and for an interval to mean something.
_FEWEST = 20


@dataclass(frozen=True)
class House:
    """One house."""

    name: str  # its number in the data set
    price: float  # above zero
    photographs: dict[str, Path]  # kind -> file, one of each of `KINDS`

    def sample(self, kind: str, value: float | None = None) -> Sample:
        """One photograph as a sample, its value the price unless another is given."""
        value = self.price if value is None else value
        return Sample(self.photographs[kind], f"{self.price:.10g}", value=value)


@dataclass(frozen=True)
class Houses:
    """A data set."""

    name: str  # of its folder
    houses: tuple[House, ...]  # in the order of the list
    left_out: tuple[str, ...]  # houses of the list without all four photographs


def load_houses(folder: Path) -> Houses:
    """Read a folder of houses in either layout."""
    if (folder / _CSV).is_file():
        prices = _from_csv(folder / _CSV)
        places = [folder / "images", folder]
    elif (folder / _TEXT).is_file():
        prices = _from_text(folder / _TEXT)
        places = [folder]
    else:
        raise FoldcamError(
            f"{folder} holds neither {_CSV} nor {_TEXT}: it is not a folder of houses."
        )
    houses, left_out = [], []
    for name, price in prices.items():
        found = {kind: _photograph(places, f"{name}_{kind}") for kind in KINDS}
        photographs = {kind: path for kind, path in found.items() if path is not None}
        if len(photographs) == len(KINDS):
            houses.append(House(name, price, photographs))
        else:
            left_out.append(name)
    if len(houses) < _FEWEST:
        raise FoldcamError(
            f"{folder} holds {len(houses)} houses with all four photographs ({', '.join(KINDS)}): "
            f"an evaluation needs at least {_FEWEST}."
        )
    return Houses(folder.resolve().name, tuple(houses), tuple(left_out))


def split_houses(houses: Sequence[House], seed: int) -> tuple[list[House], list[House]]:
    """Training and test houses, a seeded 80 to 20; every house is on one side alone."""
    order = np.random.default_rng(seed).permutation(len(houses))
    held = {int(n) for n in order[: round(_TEST_SHARE * len(houses))]}
    training = [house for n, house in enumerate(houses) if n not in held]
    return training, [house for n, house in enumerate(houses) if n in held]


def _from_csv(path: Path) -> dict[str, float]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if not {"house", "price_usd"} <= set(reader.fieldnames or ()):
                raise FoldcamError(f"{path}: its first line must name house and price_usd.")
            lines = [(reader.line_num, row["house"], row["price_usd"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FoldcamError(f"{path} is not a readable CSV file ({error}).") from None
    prices: dict[str, float] = {}
    for number, name, text in lines:
        _add(prices, f"{path}, line {number}", (name or "").strip(), text)
    return prices


def _from_text(path: Path) -> dict[str, float]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoldcamError(f"{path} is not a readable text file ({error}).") from None
    prices: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            # The line's number is the house's.
            _add(prices, f"{path}, line {number}", str(number), line.split()[-1])
    return prices


def _add(prices: dict[str, float], where: str, name: str, text: str | None) -> None:
    try:
        price = float(text or "")
    except ValueError:
        price = math.nan
    if not 0 < price < math.inf:
        raise FoldcamError(f"{where}: {text!r} is not a price above zero.")
    if not name or name in prices:
        raise FoldcamError(f"{where}: the house {name!r} is empty or named twice.")
    prices[name] = price


def _photograph(places: Sequence[Path], stem: str) -> Path | None:
    if Path(stem).name != stem:
        return None
    paths = (place / f"{stem}{suffix}" for place in places for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in paths if path.is_file()), None)
