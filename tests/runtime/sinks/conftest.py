"""Frames with results that no network made, and sources that only say what they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foldcam.runtime.images.preprocess import Affine
from foldcam.runtime.model.folded_model import Result, Timings
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sources.base import Frame

W, H = 32, 24


def result_of(
    label: str = "owl",
    similarity: float = 0.9,
    *,
    embedding: Any = (1.0, 2.0, 3.0),
    heat: Any = ((1.0, 0.0), (0.0, 0.0)),
    box: tuple[int, int, int, int] | None = None,
    estimate: float | None = None,
) -> Result:
    """One region's result; its heat lies over the whole frame, or over its box."""
    x, y, width, height = box or (0, 0, W, H)
    heatmap = np.asarray(heat, np.float32)
    return Result(
        embedding=np.asarray(embedding, np.float32),
        heatmap=heatmap,
        neighbors=np.array([7, 8], np.int32),
        similarities=np.array([similarity, 0.1], np.float32),
        labels=[] if estimate is not None else [label, "other"],
        affine=Affine(width / 8, height / 8, float(x), float(y)),
        input_wh=(8, 8),
        frame_wh=(W, H),
        timings=Timings(0.1, 0.2),
        estimate=estimate,
        heatmap_lower=None if estimate is None else heatmap[::-1].copy(),
        box=box,
    )


def seen_of(
    index: int = 0,
    *results: Result,
    seconds: float = 0.0,
    stream: int = 0,
    image: Any = None,
    source: str = "cam",
) -> FrameResults:
    """A frame of `seconds` after the first one, whose results are given (one owl unless)."""
    pixels = np.full((H, W, 3), 40, np.uint8) if image is None else image
    captured = time.monotonic() - 1000.0 + seconds
    frame = Frame(pixels, index, source, PurePath("cam"), seconds, captured, stream)
    size = (pixels.shape[1], pixels.shape[0])
    return FrameResults(frame, [replace(each, frame_wh=size) for each in results or (result_of(),)])


def source_of(**changes: Any) -> Any:
    """A source that says what it is and delivers nothing."""
    known = {
        "name": "cam", "stem": "cam", "stills": False, "live": True, "frames": None,
        "fps": 20.0, "skipped": [],
    }  # fmt: skip
    return SimpleNamespace(**{**known, **changes})


@pytest.fixture
def make_result() -> Callable[..., Result]:
    return result_of


@pytest.fixture
def make_item() -> Callable[..., FrameResults]:
    return seen_of


@pytest.fixture
def make_source() -> Callable[..., Any]:
    return source_of
