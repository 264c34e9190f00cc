"""Pictures kept between passes over the same images, so that no file is read twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.export.datasets import Sample

LIMIT_BYTES = 1 << 30
"""Memory for kept pictures: about 7,000 of 224 x 224."""


@dataclass(frozen=True, eq=False)
class ReadyPicture:
    """A picture at the network's input size.

    Attributes:
        resized: `uint8 [H, W, 3]` RGB.
        sha256: see `export.datasets.reading.picture_hash`.
        clipped: whether its box reached beyond the photograph.
    """

    resized: npt.NDArray[np.uint8]
    sha256: str
    clipped: bool


class KeptPictures:
    """Keeps pictures from the first time that they are asked for to the last.

    Args:
        limit_bytes: what they may take; pictures beyond it are read again.
        to_the_end: samples that are asked for again until the end, and kept until then.
        twice: whether every other sample is asked for a second time, and kept until then.
    """

    def __init__(
        self,
        limit_bytes: int = LIMIT_BYTES,
        *,
        to_the_end: Iterable[Sample] = (),
        twice: bool = True,
    ) -> None:
        self._room = limit_bytes
        self._to_the_end = {sample.identity for sample in to_the_end}
        self._twice = twice
        self._kept: dict[object, ReadyPicture] = {}

    def get(
        self, sample: Sample, read: Callable[[Sample], ReadyPicture | None]
    ) -> ReadyPicture | None:
        """A sample's picture.

        Args:
            read: reads it, where it is not kept; None is not kept.
        """
        lasting = sample.identity in self._to_the_end
        kept = self._kept.get(sample.identity)
        if kept is not None:
            if not lasting:
                del self._kept[sample.identity]
                self._room += kept.resized.nbytes
            return kept
        picture = read(sample)
        if picture is None or not (lasting or self._twice):
            return picture
        if picture.resized.nbytes <= self._room:
            self._room -= picture.resized.nbytes
            self._kept[sample.identity] = picture
        return picture

    def held(self, sample: Sample) -> ReadyPicture | None:
        """A sample's picture where it is kept."""
        return self._kept.get(sample.identity)
