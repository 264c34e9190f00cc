"""Frames worth learning: the sharpest of a few seconds, and of these the most different."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.small import fitted
from foldcam.runtime.model.enrolling.enrolling import pixels_sha256
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.result import Result
from foldcam.runtime.sources.base import Frame

_SIDE = 256


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame that may be learned.

    Attributes:
        sha256: of its pixels, see `pixels_sha256`.
    """

    sha256: bytes
    result: Result
    sharpness: float


def looked_at(model: FoldedModel, frames: Iterable[Frame], seconds: float) -> list[Candidate]:
    """The different frames of so many seconds that the model has an answer for.

    No frame is kept: at the rate of a camera they would fill the memory of a small device.

    Args:
        seconds: of a video its own time, of a camera that since its first frame.
    """
    found: dict[bytes, Candidate] = {}
    first = None
    for frame in frames:
        first = frame.timestamp if first is None else first
        if frame.timestamp - first > seconds:
            break
        key = pixels_sha256(frame.image)
        if key not in found and (result := model(frame.image)).valid:
            found[key] = Candidate(key, result, sharpness(frame.image))
    return list(found.values())


def sharpness(image: Image) -> float:
    """The variance of the Laplacian of the picture's grey values, at one size for all frames.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    grey = fitted(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), _SIDE, _SIDE)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def best_frames(candidates: Sequence[Candidate], most: int) -> list[int]:
    """The sharper half of the frames, and of these those that are most different.

    The sharpest comes first; then, again and again, the frame whose greatest cosine to those
    that were chosen is the smallest.

    Args:
        most: the number of frames to choose.

    Returns:
        Indices of at most `most` frames, in the order in which they were chosen.
    """
    order = sorted(range(len(candidates)), key=lambda at: -candidates[at].sharpness)
    sharp = order[: max(most, (len(order) + 1) // 2)]
    if not sharp or most < 1:
        return []
    rows = np.stack([candidates[at].result.embedding for at in sharp]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    chosen = [0]
    nearest = rows @ rows[0]
    while len(chosen) < min(most, len(sharp)):
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return [sharp[at] for at in chosen]
