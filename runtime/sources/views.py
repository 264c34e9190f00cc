"""Sources whose pictures are rotated, cropped or thinned. The numbers stay the capture's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.sources.base import Attached, Frame, Link, Source, left_out_of
from foldcam.runtime.sources.options import ROTATIONS, Box, Rotation, SourceOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


class View(Source):
    """A source whose pictures are changed on their way, or some of whose frames are left out.

    Args:
        change: of every picture; it must not write into what it is given.
    """

    def __init__(self, source: Source, change: Callable[[Image], Image], every: int = 1) -> None:
        super().__init__(source.name, source.stem)
        self._source = source
        self._change = change
        self._every = every
        self.stills, self.live = source.stills, source.live
        # Of what is kept; the lists are the source's own, which it fills.
        self.frames = None if source.frames is None else -(-source.frames // every)
        self.skipped, self.left_out = source.skipped, left_out_of(source)
        self._take_rate()

    def attach(self, link: Link) -> None:
        """Report to a run, as the source does."""
        super().attach(link)
        if isinstance(self._source, Attached):
            self._source.attach(link)

    def stop(self) -> None:
        """End the iteration, if the source can."""
        if isinstance(self._source, Attached):
            self._source.stop()

    def __enter__(self) -> View:
        self._source.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._source.__exit__(*error)

    def __iter__(self) -> Iterator[Frame]:
        for number, frame in enumerate(self._source):
            if number % self._every:
                self._link.dropped(Cause.skipped)
            else:
                self._take_rate()
                yield replace(frame, image=self._change(frame.image))

    def _take_rate(self) -> None:
        """A live source may know its rate only once it delivers."""
        self.fps = None if self._source.fps is None else self._source.fps / self._every


def viewed(source: Source, options: SourceOptions) -> Source:
    """The source as the options ask: rotated, then cropped, then thinned."""
    if options.rotate not in ROTATIONS:
        raise FoldcamError(f"A rotation of {options.rotate} degrees: use 0, 90, 180 or 270.")
    if options.every < 1:
        raise FoldcamError(f"Of every {options.every} frames none can be taken: give at least 1.")
    if options.crop is not None and min(options.crop[2:]) < 1:
        raise FoldcamError(f"The crop {_text(options.crop)} has no area.")
    if options.rotate:
        source = View(source, rotated(options.rotate))
    if options.crop is not None:
        source = View(source, cropped(options.crop, source.name))
    if options.every > 1:
        source = View(source, lambda image: image, options.every)
    return source


def rotated(degrees: Rotation) -> Callable[[Image], Image]:
    """Turn pictures clockwise."""
    return lambda image: np.asarray(cv2.rotate(image, _TURNS[degrees]), np.uint8)


def cropped(box: Box, name: str) -> Callable[[Image], Image]:
    """Cut a part out of pictures, without copying; what lies outside of them is left away."""
    x, y, width, height = box

    def crop(image: Image) -> Image:
        part = image[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
        if part.size == 0:
            raise FoldcamError(
                f"The crop {_text(box)} lies outside of {name}, whose frames are "
                f"{image.shape[1]} x {image.shape[0]}."
            )
        return part

    return crop


def _text(box: Box) -> str:
    return ",".join(map(str, box))
