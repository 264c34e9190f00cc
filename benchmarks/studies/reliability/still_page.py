"""A live page with one frame, whose results are written by hand: no network is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np

from foldcam.runtime.contract.schema import BankSummary, Contract, LabelRun, Origin
from foldcam.runtime.images.preprocess import Affine, Preprocessing
from foldcam.runtime.model.folded_model import Result, Timings
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.monitor import Monitor, State
from foldcam.runtime.web import LivePage

_NOTHING = "0" * 64


@contextmanager
def still_page(options: ServeOptions) -> Iterator[LivePage]:
    """Serve one frame of one stream while entered."""
    monitor = Monitor()
    monitor.state(monitor.add_stream("still", live=True), State.streaming)
    with LivePage(options, monitor, _contract()) as page:
        monitor.captured(0, 1.0)
        monitor.processed(0, 1.0, {})
        page.write(_seen())
        yield page


def _contract() -> Contract:
    return Contract(
        preprocessing=Preprocessing(64, 64),
        input_type="float32",
        layer="features",
        feature_map=(8, 4, 4),
        normalized=True,
        heatmap_size=(4, 4),
        transfer=1,
        neighbors=2,
        bank=BankSummary(2, 4, 8, 2, "all-triplets", "all", "none", _NOTHING),
        labels=(LabelRun("cat", 1), LabelRun("owl", 1)),
        origin=Origin("still", "", _NOTHING, "still", "train", _NOTHING),
    )


def _seen() -> FrameResults:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (240, 320, 3), np.uint8)
    result = Result(
        embedding=np.ones(4, np.float32),
        heatmap=generator.random((4, 4), np.float32),
        neighbors=np.array([1, 0], np.int32),
        similarities=np.array([0.8, 0.3], np.float32),
        labels=["owl", "cat"],
        affine=Affine(5.0, 3.75, 0.0, 0.0),
        input_wh=(64, 64),
        frame_wh=(320, 240),
        timings=Timings(1.0, 1.0),
    )
    frame = Frame(image, 0, "still", PurePath("still"), 0.0, time.monotonic())
    return FrameResults(frame, [result])
