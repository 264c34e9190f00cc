"""Results whose answers are given, and frames that only have a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.folded_model import Result, Timings
from foldcam.runtime.model.result import without_answer
from foldcam.runtime.sources.base import Frame

W, H = 100, 80


def answer_of(label: str | None = "owl", box=None, frame_wh=(W, H), neighbors: int = 1) -> Result:
    """A result with this nearest label; None is unknown, and `NaN` no answer."""
    nearest = "owl" if label is None else label
    result = Result(
        embedding=np.ones(2, np.float32),
        heatmap=np.ones((2, 2), np.float32),
        neighbors=np.arange(neighbors, dtype=np.int32),
        similarities=np.full(neighbors, 0.5, np.float32),
        labels=[nearest, *["other"] * (neighbors - 1)],
        affine=Affine(1.0, 1.0, 0.0, 0.0),
        input_wh=(8, 8),
        frame_wh=frame_wh,
        timings=Timings(0.0, 0.0),
        box=box,
        unknown=label is None,
    )
    return without_answer(result, "the network returned NaN") if label == "NaN" else result


def frame_of(seconds: float, stream: int = 0, connection: int = 0) -> Frame:
    """A frame of that time, by both clocks."""
    image = np.zeros((1, 1, 3), np.uint8)
    return Frame(image, 0, "s", PurePath("s"), seconds, seconds, stream, connection)


@pytest.fixture
def make_answer() -> Callable[..., Result]:
    return answer_of


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    return frame_of
