"""A synthetic source for trials and soaks: moving noise that carries its frame's number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.sources.address import Address
from foldcam.runtime.sources.base import Frame, Source
from foldcam.runtime.system.errors import FoldcamError

WIDTH, HEIGHT = 640, 480
BITS = 48
_STRIPE = 1
_STEP = 7


class PatternSource(Source):
    """Colourful noise that wanders; the first row of pixels holds the number in binary.

    With a rate it is live, like a camera; without one it is as fast as it is read, like a
    file. One address gives the same pictures in every run.
    """

    def __init__(self, address: Address) -> None:
        options = address.options
        super().__init__(address.name, address.stem)
        self.width, self.height = options.width or WIDTH, options.height or HEIGHT
        if self.width < BITS or self.height < 2:
            raise FoldcamError(
                f"A test pattern is at least {BITS} x 2 pixels, and {self.width} x {self.height} "
                "were asked for."
            )
        self.live = options.fps is not None
        self.fps, self.frames = options.fps, address.frames
        random = np.random.default_rng(address.seed)
        # Coarse noise, so that there is something to see; twice as wide and high as a
        # frame, which is a window on it.
        cells = random.integers(
            0, 256, (2 * self.height // 16 + 2, 2 * self.width // 16 + 2, 3), np.uint8
        )
        self._noise: Image = np.ascontiguousarray(
            cells.repeat(16, axis=0).repeat(16, axis=1)[: 2 * self.height, : 2 * self.width]
        )

    def __iter__(self) -> Iterator[Frame]:
        begun, index = time.monotonic(), 0
        while not self._stopped.is_set() and (self.frames is None or index < self.frames):
            timestamp = index / self.fps if self.fps else 0.0
            if self.fps and self._stopped.wait(max(0.0, begun + timestamp - time.monotonic())):
                return
            image = self.picture(index)
            yield Frame(image, index, self.name, PurePath(self.stem), timestamp, time.monotonic())
            index += 1

    def picture(self, index: int) -> Image:
        """The frame of that number, `uint8 [H, W, 3]` RGB."""
        left, top = index * _STEP % self.width, index * _STEP % self.height
        image: Image = self._noise[top : top + self.height, left : left + self.width].copy()
        bits = (index >> np.arange(BITS, dtype=np.int64)) & 1
        image[:_STRIPE, :BITS] = (255 * bits).astype(np.uint8)[None, :, None]
        return image


def number_in(image: Image) -> int:
    """The number that a pattern's frame carries."""
    bits = image[0, :BITS, 0] > 127
    return int((bits.astype(np.int64) << np.arange(BITS, dtype=np.int64)).sum())
