"""Raw frames on standard input, such as `ffmpeg ... -f rawvideo -pix_fmt rgb24 -` writes."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.sources.address import Address
from foldcam.runtime.sources.base import Frame, Skip, Source
from foldcam.runtime.system.errors import FoldcamError

_LOOK_SECONDS = 0.2


class RawSource(Source):
    """RGB24 pictures of one size, one after the other, until the input ends.

    Nothing is lost: who writes too fast is made to wait by the pipe. What is left at the
    end and makes no whole picture is reported.
    """

    def __init__(self, address: Address, descriptor: int | None = None) -> None:
        options = address.options
        if options.width is None or options.height is None:
            raise FoldcamError(f"{address.name} needs a width and a height.")
        super().__init__(address.name, address.stem)
        self.fps = options.fps
        self._shape = (options.height, options.width, 3)
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            image: Image = np.empty(self._shape, np.uint8)
            got = self._fill(image.reshape(-1).data)
            if got < image.size:
                if got and not self._stopped.is_set():
                    reason = f"the last frame was cut short: {got} of {image.size} bytes"
                    self.skipped.append(Skip(self.name, reason))
                return
            timestamp = index / self.fps if self.fps else 0.0
            yield Frame(image, index, self.name, PurePath(self.stem), timestamp, time.monotonic())
            index += 1

    def _fill(self, view: memoryview) -> int:
        """Read until the view is full, the input ends or the run stops; bytes that were read."""
        got = 0
        while got < len(view) and not self._stopped.is_set():
            # A plain read could not be stopped; and Python's own buffered reader, left
            # behind in a thread, would abort the interpreter at its end.
            readable, _, _ = select.select([self._descriptor], [], [], _LOOK_SECONDS)
            if not readable:
                continue
            try:
                count = os.readv(self._descriptor, [view[got:]])
            except OSError as error:
                raise FoldcamError(f"{self.name} cannot be read: {error.strerror}.") from error
            if count == 0:
                break
            got += count
        return got
