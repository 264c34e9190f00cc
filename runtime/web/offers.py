"""Pictures that nobody has named yet: the last unknown regions, to be learned from the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldcam.runtime.contract.bank.bank_file import Added
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.enrolling import Picture, enroll, pixels_sha256
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.model.result import Result
from foldcam.runtime.system.errors import FoldcamError

MOST = 12
"""Pictures that are offered at a time."""
SIDE = 240
"""Pixels of a picture's longer side, at most."""
SECONDS = 0.5
"""The frames of a stream are looked at no more often."""
OLDEST_SECONDS = 600.0
ALIKE = 0.97
"""A region whose cosine to an offered one is above this is not offered beside it."""


@dataclass(frozen=True, eq=False)
class Offer:
    """A region without a name.

    Attributes:
        number: by which it is asked for; never used twice.
        image: `uint8 [h, w, 3]` RGB, at most `SIDE` pixels a side.
        picture: what becomes of it in the bank; its embedding has a norm of 1.
        came: `time.monotonic()` of its arrival.
    """

    number: int
    image: Image
    picture: Picture
    came: float


class Offers:
    """Keeps the last unknown regions, and adds those that are named to the bank.

    In a run without a rule for unknown images these are the least similar regions of the last ten
    minutes. Memory is bounded by `MOST` pictures.
    """

    def __init__(self, bank: Path, contract: Contract) -> None:
        self._bank, self._contract = bank, contract
        self._lock = threading.Lock()
        self._offers: list[Offer] = []
        self._count = 0
        self._looked: dict[int, float] = {}

    def look(self, item: FrameResults) -> None:
        """Offer the regions of a frame that are unknown."""
        now, stream = time.monotonic(), item.frame.stream
        if now - self._looked.get(stream, -SECONDS) < SECONDS:
            return
        self._looked[stream] = now
        for result in item.results:
            if result.valid and result.labels and result.unknown is not False:
                self._offer(item.frame.image, result, now)

    def document(self) -> list[dict[str, Any]]:
        """What is offered, newest first, as JSON values."""
        with self._lock:
            return [
                {"number": each.number, "nearest": each.picture.nearest,
                 "similarity": round(each.picture.similarity, 4)}
                for each in reversed(self._offers)
            ]  # fmt: skip

    def picture(self, number: int) -> Image | None:
        """The picture of an offer; None if it is gone."""
        with self._lock:
            return next((each.image for each in self._offers if each.number == number), None)

    def learn(self, label: str, numbers: Sequence[int]) -> Added:
        """Add regions to the bank under a name, and offer them no more."""
        with self._lock:
            chosen = [each for each in self._offers if each.number in numbers]
        if not chosen:
            raise FoldcamError("These pictures are no longer offered: choose others.")
        # Without the lock: another process may be changing the bank.
        done = enroll(self._bank, self._contract, label, [each.picture for each in chosen])
        with self._lock:
            self._offers = [each for each in self._offers if each not in chosen]
        return done.added

    def _offer(self, image: Image, result: Result, now: float) -> None:
        similarity = float(result.similarities[0])
        embedding = result.embedding / np.linalg.norm(result.embedding)
        with self._lock:
            offers = [each for each in self._offers if now - each.came < OLDEST_SECONDS]
            self._offers = offers
            if any(float(embedding @ each.picture.embedding) > ALIKE for each in offers):
                return
            if len(offers) >= MOST:
                least_wanted = offers[0]
                if result.unknown is None:
                    least_wanted = max(offers, key=lambda each: each.picture.similarity)
                    if similarity >= least_wanted.picture.similarity:
                        return
                offers.remove(least_wanted)
            self._count += 1
            x, y, width, height = result.box or (0, 0, *result.frame_wh)
            region = image[y : y + height, x : x + width]
            # A copy also at its own size: the frame's memory is not to be kept.
            small = np.array(fitted(region, SIDE, SIDE))
            name = f"live/{time.strftime('%Y%m%d-%H%M%S')}-{self._count}"
            picture = Picture(name, pixels_sha256(region), embedding, result.labels[0], similarity)
            offers.append(Offer(self._count, small, picture, now))
