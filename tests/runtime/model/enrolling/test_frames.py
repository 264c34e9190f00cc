"""Which frames of a camera are worth learning."""

from __future__ import annotations

import dataclasses
import time
from pathlib import PurePath

import numpy as np
import pytest

from foldcam.runtime.model.enrolling import best_frames, looked_at, sharpness
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.sources.base import Frame


def frame(index: int, colour: int) -> Frame:
    image = np.full((16, 16, 3), colour, np.uint8)
    image[::2] = 0
    return Frame(image, index, "cam", PurePath("cam"), 0.5 * index, time.monotonic(), 0)


@pytest.fixture
def model(tiny_model):
    with FoldedModel.load(tiny_model, "cpu", 1) as loaded:
        yield loaded


def test_a_frame_that_stands_still_is_looked_at_once_and_none_beyond_the_time(model):
    frames = [frame(0, 200), frame(1, 200), frame(2, 90), frame(3, 90), frame(9, 30)]
    found = looked_at(model, iter(frames), seconds=2.0)
    assert len(found) == 2
    assert found[0].sharpness > found[1].sharpness


def test_of_the_sharper_half_the_most_different_are_taken(model):
    (first,) = looked_at(model, [frame(0, 200)], 1.0)

    def candidate(sharp: float, *embedding: float):
        result = dataclasses.replace(first.result, embedding=np.array(embedding, np.float32))
        return dataclasses.replace(first, result=result, sharpness=sharp)

    candidates = [
        candidate(9, 1, 0, 0), candidate(8, 0.9, 0.1, 0), candidate(7, 0, 1, 0),
        candidate(1, 0, 0, 1), candidate(2, 0, -1, 0), candidate(3, -1, 0, 0),
    ]  # fmt: skip
    assert best_frames(candidates, 2) == [0, 2]
    assert best_frames([], 2) == []


def test_a_picture_of_one_colour_is_not_sharp():
    sharp = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert sharpness(np.full((64, 64, 3), 90, np.uint8)) == 0
    assert sharpness(sharp) > 100
