"""Pictures kept between two passes over the same images, so that no file is read twice."""

from __future__ import annotations

from collections.abc import Callable
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
    """Keeps each picture from the first time that it is asked for to the second.

    Args:
        limit_bytes: what they may take; pictures beyond it are read a second time.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._room = limit_bytes
        self._kept: dict[object, ReadyPicture] = {}

    def get(
        self, sample: Sample, read: Callable[[Sample], ReadyPicture | None]
    ) -> ReadyPicture | None:
        """A sample's picture.

        Args:
            sample: the sample.
            read: reads it, where it is not kept; None is not kept.
        """
        kept = self._kept.pop(sample.identity, None)
        if kept is not None:
            self._room += kept.resized.nbytes
            return kept
        picture = read(sample)
        if picture is not None and picture.resized.nbytes <= self._room:
            self._room -= picture.resized.nbytes
            self._kept[sample.identity] = picture
        return picture
